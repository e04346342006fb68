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
	// Files is how many files the task keeps open from Prepare to the end of Run; see Scheduler.Files.
	Files int
}

func (n Need) plus(m Need) Need  { return Need{Slots: n.Slots + m.Slots, Memory: n.Memory + m.Memory} }
func (n Need) minus(m Need) Need { return Need{Slots: n.Slots - m.Slots, Memory: n.Memory - m.Memory} }

// within reports whether n fits into m.
func (n Need) within(m Need) bool { return n.Slots <= m.Slots && n.Memory <= m.Memory }

// Limiter is a semaphore of slots and memory. It serves the waiting task of the greatest height first; tasks of equal
// height in graph order.
//
// Fairness. The head is the first waiting task. If it does not fit yet, strict order would leave slots idle. Letting
// everything that fits pass would starve it: a stream of small tasks could hold the memory that a big head needs for
// ever. So a later task may pass the head only if it fits now, and if the head also fits together with all tasks that
// passed it and still run. The invariant, for every head, is passedBy + need ≤ total: once the tasks that did not pass
// it have ended, the head fits, whatever has passed. Those are tasks that started before it became the head, or while a
// taller task was the head. Each waiter keeps its own sum, because a taller task may take its place as the head for a
// while (TestLimiterCountsPassesOfAnEarlierHead). Without the invariant TestLimiterKeepsRoomForTheHead fails: three
// small tasks pass and the big one waits for them. Picking a task to pass costs one scan of the waiting tasks.
type Limiter struct {
	mu      sync.Mutex
	total   Need
	used    Need
	waiters waiters
}

// NewLimiter returns a limiter of n slots, at least 1, and memory in bytes.
func NewLimiter(n int, memory int64) *Limiter {
	return &Limiter{total: Need{Slots: max(n, 1), Memory: memory}}
}

// clamp limits a need to the total, so that a task which needs more than the machine has can run at all. Tasks without
// a memory limit may run at the same time.
func (l *Limiter) clamp(n Need) Need {
	return Need{Slots: min(max(n.Slots, 1), l.total.Slots), Memory: min(n.Memory, l.total.Memory)}
}

// acquire waits until n is free; the caller must call release once. If ctx has ended, acquire fails even if n is free,
// so that no step starts after a failure.
func (l *Limiter) acquire(ctx context.Context, t *Task, n Need) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{task: t, need: l.clamp(n), ready: make(chan struct{})}
	l.mu.Lock()
	heap.Push(&l.waiters, w)
	l.dispatch()
	l.mu.Unlock()
	select {
	case <-w.ready:
		return func() { l.release(w) }, nil
	case <-ctx.Done():
		l.abandon(w)
		return nil, ctx.Err()
	}
}

// abandon removes a waiter from the queue, or releases what it was granted in the meantime.
func (l *Limiter) abandon(w *waiter) {
	l.mu.Lock()
	if w.index < 0 {
		l.mu.Unlock()
		l.release(w)
		return
	}
	defer l.mu.Unlock()
	heap.Remove(&l.waiters, w.index)
	l.dispatch()
}

func (l *Limiter) release(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = l.used.minus(w.need)
	if w.passed != nil {
		w.passed.passedBy = w.passed.passedBy.minus(w.need)
	}
	l.dispatch()
}

// dispatch grants what it can. The caller holds mu.
func (l *Limiter) dispatch() {
	for len(l.waiters) > 0 && l.used.Slots < l.total.Slots {
		head := l.waiters[0]
		next := head
		if !l.used.plus(head.need).within(l.total) {
			if next = l.passing(head); next == nil {
				return
			}
			next.passed = head
			head.passedBy = head.passedBy.plus(next.need)
		}
		heap.Remove(&l.waiters, next.index)
		l.used = l.used.plus(next.need)
		close(next.ready)
	}
}

// passing returns the first waiter that may pass the head, or nil.
func (l *Limiter) passing(head *waiter) *waiter {
	var best *waiter
	for i, w := range l.waiters {
		fits := l.used.plus(w.need).within(l.total) && head.passedBy.plus(w.need).plus(head.need).within(l.total)
		if w != head && fits && (best == nil || l.waiters.Less(i, best.index)) {
			best = w
		}
	}
	return best
}

// waiter is one call of acquire.
type waiter struct {
	task     *Task
	need     Need
	ready    chan struct{} // closed when need is granted
	index    int           // its position in the heap; -1 once granted or abandoned
	passed   *waiter       // the head that it passed
	passedBy Need          // of all tasks that passed it, as the head, and still run
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
