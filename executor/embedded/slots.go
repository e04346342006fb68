package embedded

import (
	"container/heap"
	"context"
	"sync"
)

// need is what one task takes of the machine while it runs.
type need struct {
	slots  int   // at least 1
	memory int64 // bytes; 0 is what nobody counts
}

func (n need) plus(m need) need  { return need{n.slots + m.slots, n.memory + m.memory} }
func (n need) minus(m need) need { return need{n.slots - m.slots, n.memory - m.memory} }

// within says whether n fits into m.
func (n need) within(m need) bool { return n.slots <= m.slots && n.memory <= m.memory }

// slots shares slots and memory out to the task with the greatest height first, then in graph order. Where that one does
// not fit yet, later ones that do may pass it, as long as there is room for all of them beside it: what it waits for is
// the end of those that run, and it never waits longer for who has passed.
type slots struct {
	mu      sync.Mutex
	total   need
	used    need
	waiters waiters
	// head is the waiter that was passed, passed what those take who did and still run.
	head   *waiter
	passed need
}

// newSlots returns a semaphore of n slots, at least 1, and some memory.
func newSlots(n int, memory int64) *slots { return &slots{total: need{max(n, 1), memory}} }

// clamp is what a task gets that asks for n: not more than there is, so that it can run at all.
func (s *slots) clamp(n need) need {
	return need{min(max(n.slots, 1), s.total.slots), min(n.memory, s.total.memory)}
}

// acquire waits until n is free; release gives it back. It prefers an end of ctx to what is free, so that nothing starts
// after a failure.
func (s *slots) acquire(ctx context.Context, t *task, n need) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{task: t, need: s.clamp(n), ready: make(chan struct{})}
	s.mu.Lock()
	heap.Push(&s.waiters, w)
	s.dispatch()
	s.mu.Unlock()
	select {
	case <-w.ready:
		return func() { s.giveBack(w) }, nil
	case <-ctx.Done():
		s.abandon(w)
		return nil, ctx.Err()
	}
}

// abandon takes a waiter out of the queue, or gives back what it got in the meantime.
func (s *slots) abandon(w *waiter) {
	s.mu.Lock()
	if w.index < 0 {
		s.mu.Unlock()
		s.giveBack(w)
		return
	}
	defer s.mu.Unlock()
	heap.Remove(&s.waiters, w.index)
	s.dispatch()
}

func (s *slots) giveBack(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = s.used.minus(w.need)
	if w.passed != nil && w.passed == s.head {
		s.passed = s.passed.minus(w.need)
	}
	s.dispatch()
}

// dispatch starts all waiters that may start now.
func (s *slots) dispatch() {
	for len(s.waiters) > 0 && s.used.slots < s.total.slots {
		first := s.waiters[0]
		next := first
		if !s.used.plus(first.need).within(s.total) {
			if s.head != first {
				s.head, s.passed = first, need{}
			}
			if next = s.passing(); next == nil {
				return
			}
			next.passed = first
			s.passed = s.passed.plus(next.need)
		}
		heap.Remove(&s.waiters, next.index)
		s.used = s.used.plus(next.need)
		close(next.ready)
	}
}

// passing is the first waiter behind the head that fits now, and fits beside it.
func (s *slots) passing() *waiter {
	var best *waiter
	for i, w := range s.waiters {
		fits := s.used.plus(w.need).within(s.total) && s.passed.plus(w.need).plus(s.head.need).within(s.total)
		if w != s.head && fits && (best == nil || s.waiters.Less(i, best.index)) {
			best = w
		}
	}
	return best
}

// waiter is one task that waits, or has what it waited for.
type waiter struct {
	task   *task
	need   need
	ready  chan struct{}
	index  int     // its place in the heap, -1 when it has left it
	passed *waiter // the head that it passed
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
