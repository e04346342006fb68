package planner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// session is the session id of the local sources that the frontend creates for the current target. It distinguishes
// them from those of linked targets, which are canonical already.
const session = "bake"

// client acts as the build daemon for the frontend. It reads ignore files and Dockerfiles of local contexts, resolves
// images and provides the results of linked targets. It runs no step.
type client struct {
	opts   gwclient.BuildOpts
	inputs map[string]llb.State
	files  map[string]fileSet // by the name of a local source
	// locals and remotes are contexts by the name of a local source.
	locals  map[string]localDir
	remotes map[string]*remoteDir
	// sourceTime returns the time of a git or http source; nil if URLs are not downloaded.
	sourceTime func(*pb.SourceOp) (time.Time, error)
	bases      *bases
	target     string // the target that is planned
	// links maps named contexts that are multi-platform targets to a list of their platforms, for messages.
	links   map[string]string
	layouts map[string]*layout
}

var _ gwclient.Client = (*client)(nil)

// BuildOpts returns the options. The frontend may change the map.
func (c *client) BuildOpts() gwclient.BuildOpts { return c.opts }

// Inputs returns the results of linked targets.
func (c *client) Inputs(context.Context) (map[string]llb.State, error) { return c.inputs, nil }

// Warn does nothing: warnings of the linter are passed to ConvertOpt.Warn.
func (c *client) Warn(context.Context, digest.Digest, string, gwclient.WarnOpts) error { return nil }

// NewContainer returns an error: only external frontends use it.
func (c *client) NewContainer(context.Context, gwclient.NewContainerRequest) (gwclient.Container, error) {
	return nil, errors.New("a plan runs no container")
}

// Solve returns a reference for reading the ignore file or Dockerfile of a local source. Any other request is an error.
func (c *client) Solve(_ context.Context, req gwclient.SolveRequest) (*gwclient.Result, error) {
	id, err := sourceOf(req.Definition)
	if err != nil {
		return nil, err
	}
	name, ok := strings.CutPrefix(id, LocalPrefix)
	files := c.files[name]
	switch {
	case !ok && c.sourceTime != nil:
		// The frontend looks for the times of an archive's files. ResolveSourceMetadata did so, and found none.
		files = emptyFiles{}
	case !ok:
		return nil, &remoteError{id}
	case files == nil:
		return nil, fmt.Errorf("unknown local context %s", name)
	}
	if r := c.remotes[name]; r != nil {
		if err := r.get(); err != nil {
			return nil, err
		}
	}
	res := gwclient.NewResult()
	res.SetRef(fileRef{files})
	return res, nil
}

// remoteError reports that the plan needs a file of a source that is not downloaded.
type remoteError struct{ id string }

func (e *remoteError) Error() string {
	return "planning needs the Dockerfile in " + e.id +
		", which is not downloaded; provide a Dockerfile in the project " +
		"with dockerfile-inline or dockerfile = \"cwd://PATH\""
}

// sourceOf returns the identifier of a definition that consists of one source.
func sourceOf(def *pb.Definition) (string, error) {
	if def != nil && len(def.Def) > 0 {
		var op pb.Op
		if err := op.UnmarshalVT(def.Def[0]); err != nil {
			return "", err
		}
		if s := op.GetSource(); s != nil {
			return s.Identifier, nil
		}
	}
	return "", errors.New("a plan runs no step")
}

// ResolveImageConfig resolves a base image or an image of an OCI layout.
func (c *client) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest,
	[]byte, error) {
	if o := opt.OCILayoutOpt; o != nil {
		return c.resolveLayout(ref, o)
	}
	var p ocispecs.Platform
	if o := opt.ImageOpt; o != nil && o.Platform != nil {
		p = *o.Platform
	}
	if have, ok := c.links[familiar(ref)]; ok {
		return "", "", nil, fmt.Errorf("the linked target is not built for %s, only for %s; add the platform to it",
			platforms.Format(p), have)
	}
	image, err := c.bases.resolve(ctx, ref, p)
	if err != nil {
		return "", "", nil, &resolveError{ref, err}
	}
	pinned, err := pin(image.Ref, image.Digest)
	if err != nil {
		return "", "", nil, &resolveError{ref, err}
	}
	c.bases.use(c.target, ref, image)
	return pinned, image.Digest, image.Config, nil
}

func (c *client) resolveLayout(ref string, opt *sourceresolver.ResolveOCILayoutOpt) (string, digest.Digest, []byte,
	error) {
	l, ok := c.layouts[opt.Store.StoreID]
	if !ok {
		return "", "", nil, fmt.Errorf("unknown OCI layout %s", opt.Store.StoreID)
	}
	var p ocispecs.Platform
	if opt.Platform != nil {
		p = *opt.Platform
	}
	config, err := l.config(p)
	return ref, l.digest, config, err
}

// pin adds a digest to a reference. Without it, named contexts would not be pinned.
func pin(ref string, d digest.Digest) (string, error) {
	if d == "" {
		return ref, nil
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", err
	}
	pinned, err := reference.WithDigest(named, d)
	if err != nil {
		return "", err
	}
	return pinned.String(), nil
}

// familiar returns a context name as the frontend writes it: a FamiliarName without :latest.
func familiar(name string) string { return strings.TrimSuffix(FamiliarName(name), ":latest") }

// fileSet reads the few files of a context that a plan needs.
type fileSet interface {
	// read returns the content of a file by its path in the context, or fs.ErrNotExist.
	read(name string) ([]byte, error)
}

// memoryFiles is a fileSet of files in memory, by path.
type memoryFiles map[string][]byte

func (m memoryFiles) read(name string) ([]byte, error) {
	data, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return data, nil
}

// emptyFiles is a fileSet in which every file is empty.
type emptyFiles struct{}

func (emptyFiles) read(string) ([]byte, error) { return nil, nil }

// fileRef makes a fileSet available to the frontend. It implements gwclient.Reference.
type fileRef struct{ files fileSet }

func (r fileRef) ReadFile(_ context.Context, req gwclient.ReadRequest) ([]byte, error) {
	data, err := r.files.read(req.Filename)
	if err != nil {
		return nil, err
	}
	if r := req.Range; r != nil {
		data = data[min(max(r.Offset, 0), len(data)):]
		if r.Length > 0 {
			data = data[:min(r.Length, len(data))]
		}
	}
	return data, nil
}

func (r fileRef) StatFile(_ context.Context, req gwclient.StatRequest) (*fstypes.Stat, error) {
	data, err := r.files.read(req.Path)
	if err != nil {
		return nil, err
	}
	return &fstypes.Stat{Path: req.Path, Size: int64(len(data))}, nil
}

func (r fileRef) ToState() (llb.State, error)    { return llb.Scratch(), nil }
func (r fileRef) Evaluate(context.Context) error { return nil }
func (r fileRef) ReadDir(context.Context, gwclient.ReadDirRequest) ([]*fstypes.Stat, error) {
	return nil, errors.New("a plan lists no directory")
}
