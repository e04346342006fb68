package planner

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
)

// SourceUse is a git repository at a reference, or a file over HTTP, that targets of the plan read and that a lock can pin.
// What is written with a commit or a checksum needs no pin, and is none.
type SourceUse struct {
	Key    string // as bake.lock has it: the URL, with #REF of git
	Git    bool
	Remote string // of git: the URL alone
	Ref    string // of git: "" is the default branch
	Pin    string // the commit or digest that the lock has, or ""
	// Identifiers are the sources of BuildKit that read it, before they were pinned: of git one for each directory. A context
	// that is fetched before the plan has none.
	Identifiers []string
	Targets     []string
	Places      []Location // the lines of Dockerfiles that say so; none for a context
}

// isCommit says whether a git reference is the number of a commit.
func isCommit(ref string) bool {
	return (len(ref) == 40 || len(ref) == 64) && strings.Trim(ref, "0123456789abcdef") == ""
}

// gitKey is how a lock names a repository at a reference.
func gitKey(remote, ref string) string {
	key := password.ReplaceAllString(remote, "${1}xxxxx@")
	if ref != "" {
		key += "#" + ref
	}
	return key
}

// gitSource is a repository as something names it.
type gitSource struct{ remote, ref, checksum, identifier string }

// pinGit is the commit that the lock has for a reference that is not written as one, or "".
func (b *bases) pinGit(target string, s gitSource, at []Location) (string, error) {
	remote, ref, checksum := s.remote, s.ref, s.checksum
	if isCommit(ref) {
		return "", nil
	}
	key := gitKey(remote, ref)
	commit := ""
	if b.lock != nil {
		commit = b.lock.Git[key]
	}
	switch {
	case checksum != "" && commit != "" && !strings.HasPrefix(commit, checksum):
		return "", &LockError{fmt.Sprintf("%s is written with the commit %s, and %s has %s: take the commit away here, or the block there", key, checksum, config.LockName, commit)}
	case checksum != "":
		return "", nil // the checkout is held to it
	case commit == "":
		if err := b.missing(key); err != nil {
			return "", err
		}
	}
	b.read(target, SourceUse{Key: key, Git: true, Remote: remote, Ref: ref, Pin: commit}, s.identifier, at)
	return commit, nil
}

// pinHTTP is the digest that the lock has for a URL that is not written with one, or "".
func (b *bases) pinHTTP(target, url string, checksum digest.Digest, at []Location) (digest.Digest, error) {
	key := password.ReplaceAllString(url, "${1}xxxxx@")
	var d digest.Digest
	if b.lock != nil {
		d = b.lock.HTTP[key]
	}
	switch {
	case checksum != "" && d != "" && d != checksum:
		return "", &LockError{fmt.Sprintf("%s is written with the checksum %s, and %s has %s: take the checksum away here, or the block there", key, checksum, config.LockName, d)}
	case checksum != "":
		return "", nil
	case d == "":
		if err := b.missing(key); err != nil {
			return "", err
		}
	}
	b.read(target, SourceUse{Key: key, Remote: url, Pin: d.String()}, url, at)
	return d, nil
}

// read records that a target uses a source.
func (b *bases) read(target string, use SourceUse, identifier string, at []Location) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known, ok := b.sources[use.Key]
	if !ok {
		known = &use
		b.sources[use.Key] = known
	}
	known.Targets = addSorted(known.Targets, target)
	if identifier != "" {
		known.Identifiers = addSorted(known.Identifiers, identifier)
	}
	known.Places = addPlaces(known.Places, at)
}

// place records the lines of a target that name a base. What a lock pins and what is written with that digest are one source, so
// that only the target tells which it is.
func (b *bases) place(target, ref string, at []Location) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if base, ok := b.used[ref]; ok && slices.Contains(base.Targets, target) {
		base.Places = addPlaces(base.Places, at)
	}
}

// addPlaces adds to a sorted list what it lacks.
func addPlaces(list, more []Location) []Location {
	for _, l := range more {
		i, ok := slices.BinarySearchFunc(list, l, func(a, b Location) int {
			return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
		})
		if !ok {
			list = slices.Insert(list, i, l)
		}
	}
	return list
}

// sourceList is what was read, by key.
func (b *bases) sourceList() []SourceUse {
	var list []SourceUse
	for _, key := range slices.Sorted(maps.Keys(b.sources)) {
		list = append(list, *b.sources[key])
	}
	return list
}

// pinSource applies the lock to a source of a target's graph and records its use. It reports whether anything changed.
func (in *inputs) pinSource(s *pb.SourceOp, at []Location) (bool, error) {
	b, target := in.client.bases, in.client.target
	scheme, rest, _ := strings.Cut(s.Identifier, "://")
	switch scheme {
	case "docker-image":
		return in.placeImage(s, rest, at), nil
	case "git":
		remote, fragment, _ := strings.Cut(rest, "#")
		ref, sub, hasSub := strings.Cut(fragment, ":")
		commit, err := b.pinGit(target, gitSource{cmp.Or(s.Attrs[pb.AttrFullRemoteURL], remote), ref, s.Attrs[pb.AttrGitChecksum], s.Identifier}, at)
		if err != nil || commit == "" {
			return false, err
		}
		if s.Identifier = "git://" + remote + "#" + commit; hasSub {
			s.Identifier += ":" + sub
		}
		return true, nil
	case "http", "https":
		d, err := b.pinHTTP(target, s.Identifier, digest.Digest(s.Attrs[pb.AttrHTTPChecksum]), at)
		if err != nil || d == "" {
			return false, err
		}
		if s.Attrs == nil {
			s.Attrs = map[string]string{}
		}
		s.Attrs[pb.AttrHTTPChecksum] = d.String()
		return true, nil
	}
	return false, nil
}

// placeImage records where an image is named, and takes it from the repository where the lock says that it is kept.
func (in *inputs) placeImage(s *pb.SourceOp, ref string, at []Location) bool {
	name, d, _ := strings.Cut(ref, "@")
	for _, key := range []string{ref, name} {
		if len(at) == 0 {
			in.client.bases.place(in.client.target, key, in.namedPlaces(key))
		}
		in.client.bases.place(in.client.target, key, at)
	}
	from := in.client.bases.from(name)
	if from == "" || d == "" {
		return false
	}
	s.Identifier = "docker-image://" + from + "@" + d
	return true
}

// fetchPinned fetches a context by the pin that the lock has for it.
func (p *plan) fetchPinned(t *config.Target, url string) (dir, file string, err error) {
	ref, isGit, err := dfgitutil.ParseGitRef(url)
	if isGit && err == nil {
		commit, err := p.bases.pinGit(t.Name, gitSource{remote: ref.Remote, ref: ref.Ref, checksum: ref.Checksum}, nil)
		if err != nil {
			return "", "", err
		}
		return p.opts.Fetcher.Fetch(p.bases.ctx, atCommit(url, ref, commit))
	}
	base, _, _ := strings.Cut(url, "#")
	d, err := p.bases.pinHTTP(t.Name, base, "", nil)
	if err != nil {
		return "", "", err
	}
	if d != "" {
		return p.opts.Fetcher.FetchFile(p.bases.ctx, url, d)
	}
	return p.opts.Fetcher.Fetch(p.bases.ctx, url)
}

// atCommit is a git URL with a commit in the place of its reference; with none it is the URL itself.
func atCommit(url string, ref *dfgitutil.GitRef, commit string) string {
	if commit == "" {
		return url
	}
	base, _, _ := strings.Cut(url, "#")
	base, query, _ := strings.Cut(base, "?")
	var kept []string
	for _, option := range strings.Split(query, "&") {
		name, _, _ := strings.Cut(option, "=")
		if name == "keep-git-dir" || name == "submodules" || name == "mtime" {
			kept = append(kept, option)
		}
	}
	if len(kept) > 0 {
		base += "?" + strings.Join(kept, "&")
	}
	if ref.SubDir != "" {
		commit += ":" + ref.SubDir
	}
	return base + "#" + commit
}
