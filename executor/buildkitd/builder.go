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

// patience is how long a builder may leave a question without an answer before it counts as lost.
const patience = 30 * time.Second

// run is one run of one graph.
type run struct {
	engine   *Engine
	graph    *planner.Graph
	opts     executor.Options
	forms    map[string][]executor.LayerEncoding
	caches   *caches
	status   *status
	builders []*builder
	reformed sync.Map // reforming -> Packed

	mu       sync.Mutex
	made     map[*planner.Image]*made // what was built
	failures []error                  // of steps, as they happened
	cancel   context.CancelCauseFunc  // ends all builds of the run
}

// builder is a daemon that answered, and the session with it.
type builder struct {
	Builder
	client    *client.Client
	session   *session.Session
	store     *blobStore
	defs      *definitions
	platforms []ocispecs.Platform
	// own says that platforms are native ones, as the project says.
	own      bool
	patience time.Duration
	files    files
	served   chan struct{} // closed when the session has ended
	work     work
	mu       sync.Mutex
	gone     error // why it was given up
}

// connect greets all builders at once. Those that do not answer are left out, unless none does.
func (e *Engine) connect(ctx context.Context, r *run) ([]*builder, error) {
	if len(e.opts.Builders) == 0 {
		return nil, errors.New("no builder is named")
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
			r.note(err.Error() + "; the others build without it")
		}
	}
	return up, nil
}

// note shows a line that belongs to no step.
func (r *run) note(text string) {
	id := digest.FromString(text)
	r.status.send(executor.Event{Step: id, Name: text, Kind: executor.KindStart})
	r.status.send(executor.Event{Step: id, Name: text, Kind: executor.KindDone})
}

// open greets a builder and starts the session with it.
func (r *run) open(ctx context.Context, b Builder) (*builder, error) {
	c, err := Dial(ctx, b.Address)
	if err != nil {
		return nil, err
	}
	n := &builder{Builder: b, client: c, patience: r.engine.opts.Patience, store: &blobStore{blobs: r.engine.opts.Blobs}}
	if err := n.start(ctx, r); err != nil {
		_ = c.Close()
		return nil, err
	}
	return n, nil
}

func (b *builder) start(ctx context.Context, r *run) error {
	if err := b.greet(ctx); err != nil {
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
	if b.session, err = session.NewSession(context.WithoutCancel(ctx), digest.FromString(origin).Encoded()); err != nil {
		return err
	}
	o := newOffers(r.graph)
	if b.defs, err = newDefinitions(r.graph, b.session.ID(), o, r.opts.NoCache); err != nil {
		return err
	}
	if err := b.attach(b.session, r, o); err != nil {
		return err
	}
	b.served = make(chan struct{})
	go func() {
		defer close(b.served)
		// When the connection is lost, what is being solved fails and says so.
		_ = b.session.Run(context.WithoutCancel(ctx), b.client.Dialer())
	}()
	return nil
}

// greet asks a builder what it can build for.
func (b *builder) greet(ctx context.Context) error {
	workers, err := b.ask(ctx)
	if err != nil {
		return fmt.Errorf("it does not answer: %w", plain(err))
	}
	for _, p := range b.Builder.Platforms {
		platform, err := platforms.Parse(p)
		if err != nil {
			return fmt.Errorf("platform %q: %w", p, err)
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

// ask lists the builder's workers, and waits no longer than its patience.
func (b *builder) ask(ctx context.Context) ([]*client.WorkerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	return b.client.ListWorkers(ctx)
}

// watched is a context that ends when the builder stops to answer: a connection that breaks without a word is noticed
// by nobody else.
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
			if _, err := b.ask(ctx); err != nil && ctx.Err() == nil {
				b.leave(fmt.Errorf("it stopped to answer: %w", plain(err)))
				cancel(err)
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// lost says whether the builder is gone.
func (b *builder) lost(ctx context.Context) bool {
	if b.left() != nil {
		return true
	}
	if _, err := b.ask(context.WithoutCancel(ctx)); err != nil {
		return true
	}
	select {
	case <-b.served:
		return true // it came back, and knows nothing of the session any more
	default:
		return false
	}
}

// leave marks the builder as lost.
func (b *builder) leave(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone == nil {
		b.gone = err
	}
}

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

// close ends the session and the connection. A session waits for the other side to say goodbye: that of a builder which
// does not answer ends with its connection.
func (b *builder) close() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = b.session.Close() // nothing is under way any more
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

// alive are the builders that are there and were not lost.
func alive(all []*builder) []*builder {
	var up []*builder
	for _, b := range all {
		if b != nil && b.left() == nil {
			up = append(up, b)
		}
	}
	return up
}
