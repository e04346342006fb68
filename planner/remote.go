package planner

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
)

// Fetcher downloads contexts. It downloads each one once.
type Fetcher interface {
	Context(ctx context.Context, r Remote) (Fetched, error)
}

// Remote is a context that is a URL.
type Remote struct {
	URL string
	// Commit is the commit of a git repository; "" is the one that the URL names.
	Commit string
	// KeepGitDir keeps .git, whatever the URL says.
	KeepGitDir bool
	// Content is the digest that a file over HTTP must have; "" permits any.
	Content digest.Digest
	// Packed keeps an archive as a file.
	Packed bool
}

// ContextFile is the name of the only file of a context whose URL is a file.
const ContextFile = "context"

// Fetched is a downloaded context.
type Fetched struct {
	Dir  string
	File bool // Dir holds only ContextFile
	// Time is the time of the commit, or the server's time of the file. Newest is the time of the newest file of an
	// archive. Both are zero if unknown.
	Time, Newest time.Time
}

// name returns the name of a context in the graph: its URL, without a password. Contexts of one URL with different
// files have different names.
func (r Remote) name() string {
	name := redacted(r.URL)
	if r.KeepGitDir {
		name += ";git"
	}
	if r.Packed {
		name += ";file"
	}
	return name
}

// redacted replaces the password of a URL.
func redacted(url string) string { return password.ReplaceAllString(url, "${1}xxxxx@") }

// remoteDir is a context that is downloaded when the frontend first needs it.
type remoteDir struct {
	once  sync.Once
	fetch func() (localDir, error)
	dir   localDir
	err   error
}

// get downloads the context. It may be called by several goroutines.
func (r *remoteDir) get() error {
	r.once.Do(func() { r.dir, r.err = r.fetch() })
	return r.err
}

// addRemote adds a named context that is a URL. As in BuildKit, an archive stays a file. The frontend requests the
// ignore file of a context when a stage uses it, and only then is it downloaded.
func (p *plan) addRemote(t *config.Target, in *inputs, name, url string) {
	r := Remote{URL: url}
	if _, isGit, err := dfgitutil.ParseGitRef(url); !isGit || err != nil {
		r.Packed = true
	}
	id := namedContextID + r.name()
	in.client.opts.Opts["context:"+name] = "local:" + id
	in.client.files[id] = memoryFiles{}
	in.client.remotes[id] = &remoteDir{fetch: func() (localDir, error) { return p.fetchContext(t, "contexts", r) }}
}

// addFetched adds the contexts that have been downloaded to in.locals. It returns the first error of the others. The
// frontend must not be running.
func (in *inputs) addFetched() error {
	for id, r := range in.client.remotes {
		switch {
		case r.err != nil:
			return r.err
		case r.dir.dir != "":
			in.locals[id] = r.dir
		}
	}
	return nil
}

// fetchContext downloads a context at the lock's pin.
func (p *plan) fetchContext(t *config.Target, attribute string, r Remote) (localDir, error) {
	got, err := p.fetch(t, r)
	if err != nil {
		return localDir{}, p.targetError(t, attribute, err)
	}
	at := got.Time
	if at.IsZero() {
		at = got.Newest
	}
	return localDir{name: r.name(), dir: got.Dir, url: r.URL, file: got.File, time: at}, nil
}

func (p *plan) fetch(t *config.Target, r Remote) (Fetched, error) {
	p.files.noteFetched()
	ref, isGit, err := dfgitutil.ParseGitRef(r.URL)
	if isGit && err == nil {
		source := gitSource{remote: ref.Remote, ref: ref.Ref, checksum: ref.Checksum}
		if r.Commit, err = p.bases.pinGit(t.Name, source, nil); err != nil {
			return Fetched{}, err
		}
		return p.opts.Fetcher.Context(p.bases.ctx, r)
	}
	base, _, _ := strings.Cut(r.URL, "#")
	if r.Content == "" {
		if r.Content, err = p.bases.pinHTTP(t.Name, base, "", nil); err != nil {
			return Fetched{}, err
		}
	}
	return p.opts.Fetcher.Context(p.bases.ctx, r)
}

// ignoreFiles returns the files in which the frontend looks for the ignore file of a context. As in BuildKit, the
// ignore file of a URL does not count.
func (p *plan) ignoreFiles(dir localDir) fileSet {
	if dir.url != "" {
		return memoryFiles{}
	}
	return dirFiles{dir, &p.files}
}

// sourceTime returns the time of the source of an ADD: the time of a commit, or the server's time of a file. As in
// BuildKit, the time of a file with a checksum is that of the newest file in it, if it is an archive.
func (p *plan) sourceTime(t *config.Target, op *pb.SourceOp) (time.Time, error) {
	r := Remote{URL: op.Identifier, Packed: true, Content: digest.Digest(op.Attrs[pb.AttrHTTPChecksum])}
	if rest, ok := strings.CutPrefix(op.Identifier, "git://"); ok {
		remote, fragment, _ := strings.Cut(rest, "#")
		r = Remote{URL: cmp.Or(op.Attrs[pb.AttrFullRemoteURL], remote)}
		if ref, _, _ := strings.Cut(fragment, ":"); ref != "" {
			r.URL += "#" + ref
		}
	}
	checked := r.Content != ""
	got, err := p.fetch(t, r)
	switch {
	case err != nil:
		return time.Time{}, err
	case checked || got.Time.IsZero():
		return got.Newest, nil
	}
	return got.Time, nil
}

// ResolveSourceMetadata returns the time of a context or source, from which the frontend derives SOURCE_DATE_EPOCH.
func (c *client) ResolveSourceMetadata(_ context.Context, op *pb.SourceOp,
	_ sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	meta := &sourceresolver.MetaResponse{Op: op}
	scheme, rest, _ := strings.Cut(op.Identifier, "://")
	var at time.Time
	switch {
	case scheme+"://" == LocalPrefix:
		at = c.locals[rest].time
		if r := c.remotes[rest]; r != nil {
			at = r.dir.time
		}
	case scheme != "git" && scheme != "http" && scheme != "https":
	case c.sourceTime == nil:
		return nil, fmt.Errorf("the time of %s is not known here; set SOURCE_DATE_EPOCH to a number", op.Identifier)
	default:
		var err error
		if at, err = c.sourceTime(op); err != nil {
			return nil, err
		}
	}
	if !at.IsZero() {
		meta.HTTP = &sourceresolver.ResolveHTTPResponse{LastModified: &at}
	}
	return meta, nil
}
