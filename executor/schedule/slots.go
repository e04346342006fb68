package schedule

import (
	"container/heap"
	"context"
	"sync"
)

// Need is what one task uses of the machine while it runs.
type Need struct {
	Slots  int   // at least 1
	Memory int64 // bytes; 0 if it has no limit, which is not counted
}

func (n Need) plus(m Need) Need  { return Need{n.Slots + m.Slots, n.Memory + m.Memory} }
func (n Need) minus(m Need) Need { return Need{n.Slots - m.Slots, n.Memory - m.Memory} }

// within reports whether n fits into m.
func (n Need) within(m Need) bool { return n.Slots <= m.Slots && n.Memory <= m.Memory }

// Slots is a semaphore of slots and memory. It serves the waiting task of the greatest height first; tasks of equal
// height in graph order.
//
// Fairness. The head is the first waiting task. If it does not fit yet, strict order would leave slots idle, and
// letting everything that fits pass would starve it: a stream of small tasks could hold the memory that a big head
// needs for ever. So a later task may pass the head only if it fits now, and if the head also fits together with all
// tasks that passed it and still run. The invariant is passed + head.need ≤ total. The head therefore waits only for
// tasks that started before it became the head: once those end, it fits, whatever has passed. The sum of those that
// passed restarts at zero when another task becomes the head. Without the invariant
// TestSlotsKeepRoomForTheHead fails: three small tasks pass and the big one waits for them. Picking a task to pass
// costs one scan of the waiting tasks.
type Slots struct {
	mu      sync.Mutex
	total   Need
	used    Need
	waiters waiters
	// head is the first waiter at the time of the last pass.
	head *waiter
	// passed is the need of all tasks that passed head and still run.
	passed Need
}

// NewSlots returns a semaphore of n slots, at least 1, and memory in bytes.
func NewSlots(n int, memory int64) *Slots { return &Slots{total: Need{max(n, 1), memory}} }

// clamp limits a need to the total, so that a task which needs more than the machine has can run alone.
func (s *Slots) clamp(n Need) Need {
	return Need{min(max(n.Slots, 1), s.total.Slots), min(n.Memory, s.total.Memory)}
}

// acquire waits until n is free; the caller must call release once. If ctx has ended, acquire fails even if n is free,
// so that no step starts after a failure.
func (s *Slots) acquire(ctx context.Context, t *Task, n Need) (release func(), err error) {
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
		return func() { s.release(w) }, nil
	case <-ctx.Done():
		s.abandon(w)
		return nil, ctx.Err()
	}
}

// abandon removes a waiter from the queue, or releases what it was granted in the meantime.
func (s *Slots) abandon(w *waiter) {
	s.mu.Lock()
	if w.index < 0 {
		s.mu.Unlock()
		s.release(w)
		return
	}
	defer s.mu.Unlock()
	heap.Remove(&s.waiters, w.index)
	s.dispatch()
}

func (s *Slots) release(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = s.used.minus(w.need)
	if w.passed != nil && w.passed == s.head {
		s.passed = s.passed.minus(w.need)
	}
	s.dispatch()
}

// dispatch grants what it can. The caller holds mu.
func (s *Slots) dispatch() {
	for len(s.waiters) > 0 && s.used.Slots < s.total.Slots {
		first := s.waiters[0]
		next := first
		if !s.used.plus(first.need).within(s.total) {
			if s.head != first {
				s.head, s.passed = first, Need{}
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

// passing returns the first waiter that may pass the head, or nil.
func (s *Slots) passing() *waiter {
	var best *waiter
	for i, w := range s.waiters {
		fits := s.used.plus(w.need).within(s.total) && s.passed.plus(w.need).plus(s.head.need).within(s.total)
		if w != s.head && fits && (best == nil || s.waiters.Less(i, best.index)) {
			best = w
		}
	}
	return best
}

// waiter is one call of acquire.
type waiter struct {
	task   *Task
	need   Need
	ready  chan struct{} // closed when need is granted
	index  int           // its position in the heap; -1 once granted or abandoned
	passed *waiter       // the head that it passed
}

// waiters is a heap of the waiting tasks; the first is the next to serve.
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

// Push and Pop implement heap.Interface.
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
