package embedded

import (
	"context"
	"sync"
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
