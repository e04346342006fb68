// Package buildkitd is the engine that sends a graph to BuildKit daemons, one or several: the same steps as the
// embedded engine runs, through BuildKit's own client. What they build comes back as layers; images and outputs are
// made of them here, as for the embedded engine.
package buildkitd

import (
	"context"
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
	// Address is one of buildctl's: unix://, tcp://, docker-container://, kube-pod://, ssh:// and the like; also
	// buildkit://HOST[:PORT] and tcp+tls://, see Dial.
	Address string
	// Platforms are those that it has natively; empty asks the daemon.
	Platforms []string
	// Weight is its share of the work beside other builders; 0 means 1.
	Weight int
}

// Blobs are where layers are kept that come from a daemon: the cache's store.
type Blobs interface {
	// HasBlob says whether a blob is there with the given size, or of any size when size is negative.
	HasBlob(d digest.Digest, size int64) bool
	// BlobPath is where a blob is, or would be.
	BlobPath(d digest.Digest) string
	NewBlob() (BlobWriter, error)
	// Recompress gives a layer in a form of outputs, with no time after the epoch unless that is zero. Each is made once.
	Recompress(ctx context.Context, l Packed, f executor.LayerEncoding, epoch time.Time) (Packed, error)
}

// BlobWriter takes the bytes of one blob. Commit or Discard ends it.
type BlobWriter interface {
	io.Writer
	// Commit makes the blob visible if its digest and size are those wanted; size may be negative.
	Commit(want digest.Digest, size int64) (digest.Digest, int64, error)
	Discard() error
}

// Options is what the maker of an engine decides.
type Options struct {
	Builders []Builder // at least one
	// Origin tells the directories of this machine from those of others with the same path: daemons keep what they got of
	// one and are sent what changed since.
	Origin   string
	Blobs    Blobs
	Store    executor.ImageStore
	Pusher   executor.Pusher
	Keychain authn.Keychain // credentials that daemons may ask for; nil: the Docker and Podman configuration of the user
	// Tests remembers the tests that have passed; nil: they run every time.
	Tests PassedTests
	// CacheFrom and CacheTo are what the daemons import and export, by target, as BuildKit understands them.
	CacheFrom, CacheTo map[string][]config.Attrs
	// Env looks a variable up where a cache takes what reaches it from the environment; nil: the process's own.
	Env func(string) (string, bool)
	// Patience is how long a builder may leave a question without an answer before it counts as lost; 0 means 30 s.
	Patience time.Duration
}

// Engine runs graphs on daemons. It may run several at once.
type Engine struct{ opts Options }

// New returns an engine. It connects when it runs something.
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

// Run builds the graph and writes its outputs. Every builder that is lost on the way leaves what it had to do to the
// others; the build fails when none is left that can do it.
func (e *Engine) Run(ctx context.Context, g *planner.Graph, opts executor.Options) (*executor.Report, error) {
	report := &executor.Report{Started: time.Now()}
	defer func() { report.Completed = time.Now() }()
	forms, err := executor.Encodings(g.Images, opts.Dir)
	if err != nil {
		return report, err
	}
	r := &run{engine: e, graph: g, opts: opts, forms: forms, status: newStatus(g, opts.Events), made: map[*planner.Image]*made{}}
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

// export writes all outputs of the targets of which every platform was built.
func (r *run) export(ctx context.Context, started time.Time) ([]executor.ImageResult, error) {
	var built []executor.Built
	for _, image := range r.finished() {
		built = append(built, r.built(image))
	}
	opt := executor.ExportOptions{
		Dir: r.opts.Dir, Store: r.engine.opts.Store, Pusher: r.engine.opts.Pusher, Stdout: r.opts.Stdout, Events: r.status.send, Started: started,
	}
	if r.opts.Epoch != nil {
		opt.Epoch = *r.opts.Epoch
	}
	return executor.Export(ctx, built, opt)
}

// finished are the images of the targets of which every platform was built.
func (r *run) finished() []*planner.Image {
	failed := map[string]bool{}
	for _, image := range r.graph.Images {
		if r.made[image] == nil {
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

// Error says that a builder did not do what it was asked: it does not answer, was lost, or could not get a source.
type Error struct {
	Builder string // its address
	Err     error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("builder %s: %v", e.Builder, e.Err) }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }
