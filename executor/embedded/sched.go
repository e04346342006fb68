package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxKeyings bounds how often one step is keyed when the files that it reads keep changing while it reads them.
const maxKeyings = 4

// errSkipped is what becomes of a step whose input failed, or that had not started when the build was stopped.
var errSkipped = errors.New("not started: the build stopped before")

// worker does the work of one step, named by its index in graph order. The scheduler knows only order.
type worker interface {
	// lookup answers from keys alone, touching no content, whether the step's result is known. All inputs are done.
	lookup(ctx context.Context, step int) (found bool, err error)
	// claim makes this process the only one that runs the step: it may wait for another one that does, and then
	// find the result. It gets ready what the run needs. release is not nil when found is false and err is nil.
	claim(ctx context.Context, step int) (found bool, release func(), err error)
	// run executes the step. An error that wraps errStale says that its key no longer holds: it is looked up again.
	run(ctx context.Context, step int) error
}

// errStale is wrapped by run when what the key was made of has changed since.
var errStale = errors.New("changed during the build")

// errOvertaken wraps errStale: it was another step that found so.
var errOvertaken = fmt.Errorf("%w: another step had the build context read again", errStale)

// task is one step as the scheduler sees it.
type task struct {
	index  int
	inputs []int // without repetition
	users  []int
	// height is the weight of the heaviest way from this step to an image, itself included.
	height time.Duration
	// need is what it takes while it runs.
	need need
	// waiting counts the inputs that are not done.
	waiting int
}

// newTasks links the steps of a graph: inputs[i] are the indices of the steps that step i stands on, all below i.
// weight says how long a step probably takes, and needs what it takes of the machine meanwhile.
func newTasks(inputs [][]int, weight func(int) time.Duration, needs func(int) need) []task {
	tasks := make([]task, len(inputs))
	for i, in := range inputs {
		seen := make(map[int]bool, len(in))
		tasks[i].index = i
		for _, k := range in {
			if !seen[k] {
				seen[k] = true
				tasks[i].inputs = append(tasks[i].inputs, k)
				tasks[k].users = append(tasks[k].users, i)
			}
		}
		tasks[i].waiting = len(tasks[i].inputs)
		tasks[i].need = needs(i)
	}
	for i := len(tasks) - 1; i >= 0; i-- {
		for _, u := range tasks[i].users {
			tasks[i].height = max(tasks[i].height, tasks[u].height)
		}
		tasks[i].height += weight(i)
	}
	return tasks
}

// scheduler starts each step when its inputs are done, the one with the longest way to go first.
type scheduler struct {
	worker worker
	// keying bounds the look-ups that go on at once, slots what running steps take.
	keying, slots *slots
	// keepGoing starts what does not stand on a failed step.
	keepGoing bool
}

// run executes all tasks and returns what became of each, nil meaning done, and the failures in the order in which they
// happened. The first stops what runs and starts nothing more, unless it keeps going. When ctx ends
// before any of them, its cause is the one failure.
func (s *scheduler) run(ctx context.Context, tasks []task) (errs, failures []error) {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs = make([]error, len(tasks))
	for i := range errs {
		errs[i] = errSkipped
	}
	type outcome struct {
		index int
		err   error
	}
	done := make(chan outcome)
	running := 0
	start := func(i int) {
		running++
		go func() { done <- outcome{i, s.do(ctx, &tasks[i])} }()
	}
	for i := range tasks {
		if tasks[i].waiting == 0 {
			start(i)
		}
	}
	for running > 0 {
		o := <-done
		running--
		errs[o.index] = o.err
		if o.err != nil {
			if ctx.Err() == nil {
				failures = append(failures, o.err)
				if !s.keepGoing {
					cancel(o.err)
				}
			}
			continue
		}
		for _, u := range tasks[o.index].users {
			if tasks[u].waiting--; tasks[u].waiting == 0 && ctx.Err() == nil {
				start(u)
			}
		}
	}
	if outer.Err() != nil && len(failures) == 0 { // why counts, not who noticed
		failures = []error{context.Cause(outer)}
	}
	return errs, failures
}

// do takes one step from its key to its result.
func (s *scheduler) do(ctx context.Context, t *task) error {
	for try := 1; ; {
		err := s.attempt(ctx, t)
		switch {
		case !errors.Is(err, errStale):
			return err
		case errors.Is(err, errOvertaken): // a try of another step, of which there are only so many
		case try == maxKeyings:
			return fmt.Errorf("%w: given up after %d tries; stop what writes these files", err, try)
		default:
			try++
		}
	}
}

// attempt keys a step once and runs it when nothing has its result. No slot is held while it waits for a lock.
func (s *scheduler) attempt(ctx context.Context, t *task) error {
	free, err := s.keying.acquire(ctx, t, need{slots: 1})
	if err != nil {
		return skipped(err)
	}
	found, err := s.worker.lookup(ctx, t.index)
	free()
	if err != nil || found {
		return err
	}
	found, release, err := s.worker.claim(ctx, t.index)
	if err != nil || found {
		return err
	}
	defer release()
	if free, err = s.slots.acquire(ctx, t, t.need); err != nil {
		return skipped(err)
	}
	defer free()
	return s.worker.run(ctx, t.index)
}

// skipped marks an error of a step that never started.
func skipped(err error) error { return fmt.Errorf("%w: %w", errSkipped, err) }
