package buildkitd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// run is one run of one graph.
type run struct {
	engine   *Engine
	graph    *planner.Graph
	opts     executor.Options
	forms    map[string][]executor.LayerForm
	status   *status
	builders []*builder

	mu   sync.Mutex
	made map[*planner.Image]*made // what was built
}

// builder is a daemon that answered, and the session with it.
type builder struct {
	Builder
	client    *client.Client
	session   *session.Session
	defs      *definitions
	platforms []ocispecs.Platform
	// own says that platforms are native ones, as the project says.
	own    bool
	files  files
	served chan struct{} // closed when the session has ended
	mu     sync.Mutex
	gone   error // why it was given up
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
	var up []*builder
	for i, b := range all {
		if failed[i] == nil {
			up = append(up, b)
			continue
		}
		failed[i] = &Error{e.opts.Builders[i].Address, failed[i]}
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
	n := &builder{Builder: b, client: c}
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
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	if b.session, err = session.NewSession(context.WithoutCancel(ctx), digest.FromString(host).Encoded()); err != nil {
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
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	workers, err := b.client.ListWorkers(ctx)
	if err != nil {
		return fmt.Errorf("it does not answer: %w", err)
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

// lost says whether the builder is gone, given the error of what it was asked.
func (b *builder) lost(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), greetTimeout)
	defer cancel()
	if _, err := b.client.ListWorkers(ctx); err != nil {
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
	for _, b := range r.builders {
		_ = b.session.Close()
		_ = b.client.Close() // nothing is under way any more
	}
}

// alive are the builders that were not lost.
func (r *run) alive() []*builder {
	var up []*builder
	for _, b := range r.builders {
		if b.left() == nil {
			up = append(up, b)
		}
	}
	return up
}
