package embedded

import (
	"context"
	"sync"
	"time"

	"github.com/bakebuild/bake/executor"
)

// maxTransfers bounds concurrent downloads of layers.
const maxTransfers = 4

// transfer waits for a transfer slot. release may be called more than once.
func (b *build) transfer(ctx context.Context) (release func(), err error) {
	select {
	case b.transfers <- struct{}{}:
		return sync.OnceFunc(func() { <-b.transfers }), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// begin records that work starts on a step that the scheduler does not run: a source, of which something is needed.
// Several may begin at once; the step ends with the last of them.
func (n *node) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.active++; n.active > 1 {
		return
	}
	n.result.Status = executor.StatusRan
	if n.result.Started.IsZero() {
		n.result.Started = time.Now()
	}
	n.b.events.send(executor.Event{Step: n.step.Digest, Name: n.step.Name, Kind: executor.KindStart})
}

// end ends the work that begin started.
func (n *node) end(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.active--; n.active > 0 {
		return
	}
	n.result.Completed = time.Now()
	n.b.events.send(executor.Event{Step: n.step.Digest, Name: n.step.Name, Kind: executor.KindDone, Err: err})
}
