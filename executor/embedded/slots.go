package embedded

import (
	"container/heap"
	"context"
	"sync"
)

// slots is a counting semaphore that serves the task with the greatest height first, then graph order.
type slots struct {
	mu      sync.Mutex
	free    int
	waiters waiters
}

// newSlots returns a semaphore of n slots; n is at least 1.
func newSlots(n int) *slots { return &slots{free: max(n, 1)} }

// acquire waits for a slot. It prefers an end of ctx to a free slot, so that nothing starts after a failure.
func (s *slots) acquire(ctx context.Context, t *task) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.free > 0 && len(s.waiters) == 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	w := &waiter{task: t, ready: make(chan struct{})}
	heap.Push(&s.waiters, w)
	s.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		s.abandon(w)
		return ctx.Err()
	}
}

// abandon takes a waiter out of the queue, or gives back the slot that it got in the meantime.
func (s *slots) abandon(w *waiter) {
	s.mu.Lock()
	if w.index >= 0 {
		heap.Remove(&s.waiters, w.index)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.release()
}

// release gives a slot back.
func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiters) == 0 {
		s.free++
		return
	}
	close(heap.Pop(&s.waiters).(*waiter).ready)
}

// waiter is one task that waits for a slot; index is its place in the heap, -1 when it has left it.
type waiter struct {
	task  *task
	ready chan struct{}
	index int
}

type waiters []*waiter

func (w waiters) Len() int { return len(w) }
func (w waiters) Less(i, j int) bool {
	if w[i].task.height != w[j].task.height {
		return w[i].task.height > w[j].task.height
	}
	return w[i].task.index < w[j].task.index
}
func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].index, w[j].index = i, j
}

// Push and Pop are for container/heap.
func (w *waiters) Push(x any) {
	item := x.(*waiter)
	item.index = len(*w)
	*w = append(*w, item)
}

func (w *waiters) Pop() any {
	old := *w
	item := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	item.index = -1
	return item
}
