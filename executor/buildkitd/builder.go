package buildkitd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// patience is the default of Options.Patience.
const patience = 30 * time.Second

// run is one run of one graph.
type run struct {
	engine       *Engine
	graph        *planner.Graph
	opts         executor.Options
	encodings    map[string][]executor.LayerEncoding
	caches       *caches
	status       *status
	builders     []*builder
	recompressed sync.Map // recompressKey to Packed

	mu       sync.Mutex
	results  map[*planner.Image]*builtImage // finished images
	failures []error                        // of steps, as they happened
	cancel   context.CancelCauseFunc        // ends all builds of the run
}

// builder is a daemon that answered, and the session with it.
type builder struct {
	Builder
	client    *client.Client
	session   *session.Session
	store     *blobStore
	defs      *definitions
	platforms []ocispecs.Platform
	// own reports that platforms come from the project file, so that all of them are native.
	own      bool
	patience time.Duration
	receiver fileReceiver
	served   chan struct{} // closed when the session has ended
	work     work
	mu       sync.Mutex
	gone     error // why the builder is lost; nil while it is not
}

// connect connects to all builders at once. It drops those that do not answer, and fails if none does.
func (e *Engine) connect(ctx context.Context, r *run) ([]*builder, error) {
	if len(e.opts.Builders) == 0 {
		return nil, errors.New("no engine; add --engine ADDRESS")
	}
	all := make([]*builder, len(e.opts.Builders))
	failed := make([]error, len(all))
	var g errgroup.Group
	for i, b := range e.opts.Builders {
		g.Go(func() error {
			all[i], failed[i] = r.open(ctx, b)
			return nil
		})
	}
	_ = g.Wait() // every error is in failed
	if ctx.Err() != nil {
		r.builders = alive(all)
		r.close()
		return nil, context.Cause(ctx)
	}
	up := alive(all)
	for i, err := range failed {
		if err != nil {
			failed[i] = &Error{e.opts.Builders[i].Address, err}
		}
	}
	if len(up) == 0 {
		return nil, errors.Join(failed...)
	}
	for _, err := range failed {
		if err != nil {
			r.emitNote(err.Error() + "; building without it")
		}
	}
	return up, nil
}

// emitNote emits a line that belongs to no step.
func (r *run) emitNote(text string) {
	id := digest.FromString(text)
	r.status.send(executor.Event{Step: id, Name: text, Kind: executor.KindStart})
	r.status.send(executor.Event{Step: id, Name: text, Kind: executor.KindDone})
}

// open connects to a builder and starts the session.
func (r *run) open(ctx context.Context, b Builder) (*builder, error) {
	c, err := Dial(ctx, b.Address)
	if err != nil {
		return nil, err
	}
	store := &blobStore{blobs: r.engine.opts.Blobs}
	n := &builder{Builder: b, client: c, patience: r.engine.opts.Patience, store: store}
	if err := n.start(ctx, r); err != nil {
		_ = c.Close()
		return nil, err
	}
	return n, nil
}

// start queries the platforms and starts serving the session.
func (b *builder) start(ctx context.Context, r *run) error {
	if err := b.queryPlatforms(ctx); err != nil {
		return err
	}
	origin := r.engine.opts.Origin
	if origin == "" {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		origin = host
	}
	var err error
	b.session, err = session.NewSession(context.WithoutCancel(ctx), digest.FromString(origin).Encoded())
	if err != nil {
		return err
	}
	o := newSecretSet(r.graph)
	if b.defs, err = newDefinitions(r.graph, b.session.ID(), o, r.opts.NoCache); err != nil {
		return err
	}
	if err := b.attach(b.session, r, o); err != nil {
		return err
	}
	b.served = make(chan struct{})
	go func() {
		defer close(b.served)
		// The error is not needed: when the connection is lost, running solves fail and report it.
		_ = b.session.Run(context.WithoutCancel(ctx), b.client.Dialer())
	}()
	return nil
}

// queryPlatforms sets the platforms that the builder runs: those of the project file, or else those of its workers.
func (b *builder) queryPlatforms(ctx context.Context) error {
	workers, err := b.listWorkers(ctx)
	if err != nil {
		return fmt.Errorf("cannot connect: %w", unreachable(err))
	}
	for _, p := range b.Builder.Platforms {
		platform, err := platforms.Parse(p)
		if err != nil {
			return fmt.Errorf("unknown platform %q; use os/arch, such as linux/arm64", p)
		}
		b.platforms, b.own = append(b.platforms, platforms.Normalize(platform)), true
	}
	if b.own {
		return nil
	}
	for _, w := range workers {
		b.platforms = append(b.platforms, w.Platforms...)
	}
	return nil
}

// listWorkers lists the builder's workers. It fails after the builder's patience.
func (b *builder) listWorkers(ctx context.Context) ([]*client.WorkerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	return b.client.ListWorkers(ctx)
}

// watched returns a context that ends when the builder stops answering. A connection that breaks silently is noticed
// nowhere else.
func (b *builder) watched(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		tick := time.NewTicker(b.patience / 2)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := b.listWorkers(ctx); err != nil && ctx.Err() == nil {
				b.leave(fmt.Errorf("stopped responding: %w", plain(err)))
				cancel(err)
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// lost reports whether the builder cannot continue with the session. It sends a request, so it may take as long as the
// builder's patience.
func (b *builder) lost(ctx context.Context) bool {
	if b.left() != nil {
		return true
	}
	if _, err := b.listWorkers(context.WithoutCancel(ctx)); err != nil {
		return true
	}
	select {
	case <-b.served:
		return true // the daemon restarted and does not know the session
	default:
		return false
	}
}

// leave marks the builder as lost. The first reason stays.
func (b *builder) leave(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone == nil {
		b.gone = err
	}
}

// left returns why the builder is lost, or nil.
func (b *builder) left() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gone
}

// close ends all sessions and connections.
func (r *run) close() {
	var g sync.WaitGroup
	for _, b := range r.builders {
		g.Go(b.close)
	}
	g.Wait()
}

// close ends the session and the connection. A session waits for the daemon to close it; for a daemon that does not
// answer, closing the connection ends it.
func (b *builder) close() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = b.session.Close() // nothing runs any more
	}()
	if b.left() == nil {
		select {
		case <-ended:
		case <-time.After(b.patience):
		}
	}
	_ = b.client.Close() // likewise
	<-ended
	<-b.served
}

// alive returns the builders that are connected and not lost.
func alive(all []*builder) []*builder {
	var up []*builder
	for _, b := range all {
		if b != nil && b.left() == nil {
			up = append(up, b)
		}
	}
	return up
}
