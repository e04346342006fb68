// Package embedded is the engine that runs a graph in this process: no daemon, nothing to install. The scheduler
// (package schedule) decides the order, keys (keyed.go) decide which steps need not run, and operations do the work:
// exec steps run in a sandbox, file operations write to an upper directory, sources are read on demand.
package embedded

import (
	"context"
	"io"
	"net/http"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/cgroup"
	"github.com/bakebuild/bake/executor/embedded/network"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/seccomp"
	"github.com/bakebuild/bake/executor/registry"
)

// Options configures an engine. The zero value is valid: it uses the sandbox and http.DefaultClient and rejects git
// sources.
type Options struct {
	// Runner runs the process of an exec step; nil is the sandbox.
	Runner Runner
	// HTTP fetches ADD of a URL; nil is http.DefaultClient.
	HTTP *http.Client
	// Origin is the project that is built. The store records it with the names of images.
	Origin cache.Origin
	// Checkouts fetches ADD of a git repository; if nil, such steps are rejected.
	Checkouts Checkouts
	// Memory is the memory, in bytes, that steps with a memory limit may use together; 0 is the memory available when
	// a run starts.
	Memory int64
}

// Runner runs one process in its own root.
type Runner interface {
	Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error)
}

// Engine runs graphs on one cache. Several runs may be active at once.
type Engine struct {
	store  *cache.Store
	client *registry.Client
	opts   Options
	caches Caches
	// open opens a remote cache; nil is Place.Source. A test replaces it.
	open func(remotecache.Place) remotecache.Source
}

// New returns an engine that stores everything in store and fetches images with client.
func New(store *cache.Store, client *registry.Client, opts Options) *Engine {
	if opts.Runner == nil {
		opts.Runner = &sandbox.Sandbox{Filters: seccomp.Filters, Outside: &network.Network{}, Limiter: &cgroup.Groups{}}
	}
	return &Engine{store: store, client: client, opts: opts}
}

// Close releases what the engine keeps ready for further runs. No run may be active.
func (e *Engine) Close() error {
	if c, ok := e.opts.Runner.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
