// Package embedded is the engine that runs a graph in this process: no daemon, nothing to install. A scheduler knows
// only order (package schedule), the keys say what need not run (keyed.go, keyexec.go, keyfile.go), and the operations do the
// work: exec steps in a sandbox, file operations into an upper directory, sources read on demand.
package embedded

import (
	"context"
	"io"
	"net/http"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/cgroup"
	"github.com/bakebuild/bake/executor/embedded/network"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/seccomp"
	"github.com/bakebuild/bake/executor/registry"
)

// Options is what the maker of an engine decides; the zero value is what the command uses.
type Options struct {
	// Runner runs the process of an exec step; nil is the sandbox.
	Runner Runner
	// HTTP fetches ADD of a URL; nil is a client of its own with bounded waits.
	HTTP *http.Client
	// Checkouts fetches ADD of a git repository; with nil there are none.
	Checkouts Checkouts
	// Memory is what steps whose memory is limited may take together, in bytes; 0 is what the machine has available when a
	// run starts.
	Memory int64
}

// Runner runs one process in its own root.
type Runner interface {
	Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error)
}

// Engine runs graphs on one cache. It may run several at once.
type Engine struct {
	store  *cache.Store
	client *registry.Client
	opts   Options
	caches Caches
}

// New returns an engine that keeps everything in store and fetches images with client.
func New(store *cache.Store, client *registry.Client, opts Options) *Engine {
	if opts.Runner == nil {
		opts.Runner = &sandbox.Sandbox{Filters: seccomp.Filters, Outside: &network.Network{}, Limiter: &cgroup.Groups{}}
	}
	return &Engine{store: store, client: client, opts: opts}
}

// Close ends what the engine has ready for further runs. None may be going on.
func (e *Engine) Close() error {
	if c, ok := e.opts.Runner.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
