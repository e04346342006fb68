// Package buildkitd is the engine that sends a graph to one or several BuildKit daemons, through BuildKit's own client.
// The daemons run the same steps as the embedded engine and return layers. Images and outputs are assembled from them
// in this process, as for the embedded engine.
package buildkitd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// Builder is a daemon that builds.
type Builder struct {
	// Address is an address of buildctl, such as unix://, tcp://, docker-container://, kube-pod:// or ssh://. It may
	// also be buildkit://HOST[:PORT] or tcp+tls://, see Dial.
	Address string
	// Platforms are its native platforms. Empty means those that the daemon reports.
	Platforms []string
	// Weight is its share of the work relative to other builders; 0 means 1.
	Weight int
}

// Blobs is the store of the cache, which keeps the layers that come from daemons.
type Blobs interface {
	// HasBlob reports whether the store has a blob of a size, or of any size when size is negative.
	HasBlob(d digest.Digest, size int64) bool
	// BlobPath returns the path of a blob, whether it exists or not.
	BlobPath(d digest.Digest) string
	// NewBlob starts a new blob.
	NewBlob() (BlobWriter, error)
	// Recompress returns a layer in an encoding, with times clamped to the epoch unless that is zero. The store keeps
	// the result.
	Recompress(ctx context.Context, l Packed, enc executor.LayerEncoding, epoch time.Time) (Packed, error)
}

// BlobWriter receives the bytes of one blob. Commit or Discard ends it.
type BlobWriter interface {
	io.Writer
	// Commit makes the blob visible and returns its digest and size. If they do not match, it discards the blob and
	// returns an error. An empty digest and a negative size match any.
	Commit(want digest.Digest, size int64) (digest.Digest, int64, error)
	Discard() error
}

// Options configures an engine.
type Options struct {
	Builders []Builder // at least one
	// Origin identifies this machine, so that a daemon does not confuse its directories with those of another machine
	// at the same path. A daemon keeps a directory and receives only changes. Empty means the host name.
	Origin string
	Blobs  Blobs
	Store  executor.ImageStore // for images of the local store; nil if no output needs it
	// Written remembers the directories that outputs wrote; nil forgets them.
	Written executor.WrittenDirs
	Pusher  executor.Pusher // for images that are pushed; nil if no output needs it
	// Keychain has the credentials that daemons may request; nil: the Docker and Podman configuration of the user.
	Keychain authn.Keychain
	// Tests remembers passed tests; nil: every test runs every time.
	Tests PassedTests
	// CacheFrom and CacheTo are the caches that the daemons import and export, by target, with BuildKit's attributes.
	CacheFrom, CacheTo map[string][]config.Attrs
	// Env looks up a variable for the address and credentials of a cache; nil: os.LookupEnv.
	Env func(string) (string, bool)
	// Patience is how long a builder may take to answer a request before it counts as lost; 0 means 30 s.
	Patience time.Duration
}

// Engine runs graphs on daemons. It may run several at once.
type Engine struct{ opts Options }

// New returns an engine. Run connects to the builders.
func New(opts Options) *Engine {
	if opts.Keychain == nil {
		opts.Keychain = registry.NewKeychain(os.LookupEnv)
	}
	if opts.Env == nil {
		opts.Env = os.LookupEnv
	}
	if opts.Patience == 0 {
		opts.Patience = patience
	}
	return &Engine{opts: opts}
}

// Run implements executor.Engine. When a builder is lost, the others take over its unfinished images. The run fails
// when no builder can run one of them.
func (e *Engine) Run(ctx context.Context, g *planner.Graph, opts executor.Options) (*executor.Report, error) {
	report := &executor.Report{Started: time.Now()}
	defer func() { report.Completed = time.Now() }()
	encodings, err := executor.Encodings(g.Images, opts.Dir)
	if err != nil {
		return report, err
	}
	r := &run{
		engine: e, graph: g, opts: opts, encodings: encodings, status: newStatus(g, opts.Events),
		results: map[*planner.Image]*builtImage{},
	}
	if err := r.denied(); err != nil {
		return report, err
	}
	if r.caches, err = e.caches(g, opts.Dir); err != nil {
		return report, err
	}
	if r.builders, err = e.connect(ctx, r); err != nil {
		return report, err
	}
	defer r.close()
	failures, err := r.all(ctx)
	report.Steps = r.status.results()
	if err != nil {
		return report, err
	}
	if len(failures) > 0 && !(opts.KeepGoing && ctx.Err() == nil) {
		return report, failures[0]
	}
	report.Images, err = r.export(ctx, report.Started)
	report.Steps = r.status.results()
	if err != nil {
		failures = append(failures, err)
	}
	return report, executor.Failed(failures)
}

// export writes the outputs of the images that finished returns.
func (r *run) export(ctx context.Context, started time.Time) ([]executor.ImageResult, error) {
	var built []executor.Built
	for _, image := range r.finished() {
		built = append(built, r.built(image))
	}
	opt := executor.ExportOptions{
		Dir: r.opts.Dir, Store: r.engine.opts.Store, Pusher: r.engine.opts.Pusher, Stdout: r.opts.Stdout,
		Events: r.status.send, Started: started, Written: r.engine.opts.Written,
	}
	if r.opts.Epoch != nil {
		opt.Epoch = *r.opts.Epoch
	}
	return executor.Export(ctx, built, opt)
}

// finished returns the images of the targets for which every platform was built.
func (r *run) finished() []*planner.Image {
	failed := map[string]bool{}
	for _, image := range r.graph.Images {
		if r.results[image] == nil {
			failed[image.Target] = true
		}
	}
	var all []*planner.Image
	for _, image := range r.graph.Images {
		if !failed[image.Target] {
			all = append(all, image)
		}
	}
	return all
}

// Error reports a failure on a builder that is not one of a step: the builder does not answer, was lost, or could not
// fetch a source. A local error during its builds is an Error too, such as one of Recompress. If no builder can run an
// image, the Error names the first builder, and its text all of them.
type Error struct {
	Builder string // its address
	Err     error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("engine %s: %v", e.Builder, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Unreachable reports whether there is no connection to the daemon, rather than an answer that is an error.
func (e *Error) Unreachable() bool {
	var p *plainError
	return errors.As(e.Err, &p) && p.unreachable
}
