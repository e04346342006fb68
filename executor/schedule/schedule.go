// Package schedule runs the steps of a graph in order: each step after its inputs, within limits on slots and memory,
// the step with the longest remaining chain first.
//
// It knows order and resources. What a step is, whether its result is cached and how it runs is the business of a
// Worker; the package imports nothing of this module.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxAttempts bounds the attempts at one step while the files that it reads keep changing. An attempt that ends with
// ErrOvertaken does not count.
const maxAttempts = 4

// ErrSkipped is the error of a step that did not start: an input failed, or the build stopped first. A step that the
// end of the build interrupts in Lookup, Prepare or Run has the error of that method instead.
var ErrSkipped = errors.New("not started: the build stopped before")

// ErrStale is wrapped by the error of a Worker when an input of the step's key has changed since the key was computed.
var ErrStale = errors.New("changed during the build")

// ErrOvertaken wraps ErrStale: another step noticed the change.
var ErrOvertaken = fmt.Errorf("%w: the build context is being read again for another step", ErrStale)

// Worker does the work of one step, named by its index in graph order. Its methods are called from several goroutines,
// but by only one at a time for one step.
type Worker interface {
	// Lookup reports whether the result of the step is known. It uses keys alone and opens no layer. All inputs of the
	// step are done.
	Lookup(ctx context.Context, step int) (found bool, err error)
	// Prepare gets ready what Run needs and makes this process the only one that runs the step. It may wait for
	// another process that runs the same step, and then find its result. The caller must call release, which is nil
	// if found is true or err is not nil.
	Prepare(ctx context.Context, step int) (found bool, release func(), err error)
	// Run executes the step. After an error that wraps ErrStale the step is looked up again.
	Run(ctx context.Context, step int) error
}

// Task is one step as the scheduler sees it. Run consumes it.
type Task struct {
	index  int
	inputs []int // without repetition
	users  []int
	// height is the weight of the heaviest path from this step to an image, including the step itself.
	height time.Duration
	// need is what the step uses while it runs.
	need Need
	// waiting counts the inputs that are not done.
	waiting int
}

// NewTasks links the steps of a graph. inputs[i] lists the indices of the steps that step i depends on, all below i.
// weight estimates how long a step takes; needs returns what it uses of the machine while it runs. Call NewTasks for
// each Run.
func NewTasks(inputs [][]int, weight func(int) time.Duration, needs func(int) Need) []Task {
	tasks := make([]Task, len(inputs))
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

// Scheduler starts each step when its inputs are done, the step with the longest remaining chain first.
type Scheduler struct {
	Worker Worker
	// Lookups bounds concurrent calls of Lookup, each of which takes one slot.
	Lookups *Limiter
	// Runs bounds what concurrent calls of Run use, each of which takes the Need of its step.
	Runs *Limiter
	// Files bounds what steps keep open from Prepare to the end of Run: each takes as many slots as its Need has Files.
	// nil does not bound it.
	Files *Limiter
	// KeepGoing also starts, after a failure, the steps that do not depend on a failed step.
	KeepGoing bool
}

// Run executes all tasks and returns the error of each, nil for a step that is done, and the failures in the order in
// which they happened. The first failure cancels running steps and starts no others, unless KeepGoing is set. If ctx
// ends before any step fails, its cause is the only failure. Run returns after all its goroutines have ended. It
// consumes tasks, which must not be used again.
func (s *Scheduler) Run(ctx context.Context, tasks []Task) (errs, failures []error) {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs = make([]error, len(tasks))
	for i := range errs {
		errs[i] = ErrSkipped
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
				if !s.KeepGoing {
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
	if outer.Err() != nil && len(failures) == 0 { // report why the run ended, not which step noticed first
		failures = []error{context.Cause(outer)}
	}
	return errs, failures
}

// do attempts one step until its key holds.
func (s *Scheduler) do(ctx context.Context, t *Task) error {
	for try := 1; ; {
		err := s.attempt(ctx, t)
		switch {
		case !errors.Is(err, ErrStale):
			return err
		case errors.Is(err, ErrOvertaken): // counts as an attempt of the other step, whose attempts are bounded
		case try == maxAttempts:
			return fmt.Errorf("%w: gave up after %d attempts; stop the program that writes these files", err, try)
		default:
			try++
		}
	}
}

// attempt looks a step up once and runs it if its result is not known.
//
// No slot of Runs is held while Prepare waits for another process. Otherwise two processes could each hold all their
// slots and wait for a step that the other one has reserved. The reservation is held while the step waits for slots:
// that cannot deadlock, because a step that holds slots waits for no reservation.
//
// A reservation is an open file, so the number of steps between Prepare and the end of Run is bounded by Files, however
// many steps are ready. That cannot deadlock either: a step takes its Files before anything else, so one that holds a
// reservation never waits for Files.
func (s *Scheduler) attempt(ctx context.Context, t *Task) error {
	free, err := s.Lookups.acquire(ctx, t, Need{Slots: 1})
	if err != nil {
		return skipped(err)
	}
	found, err := s.Worker.Lookup(ctx, t.index)
	free()
	if err != nil || found {
		return err
	}
	if s.Files != nil {
		free, err := s.Files.acquire(ctx, t, Need{Slots: t.need.Files})
		if err != nil {
			return skipped(err)
		}
		defer free()
	}
	found, release, err := s.Worker.Prepare(ctx, t.index)
	if err != nil || found {
		return err
	}
	defer release()
	if free, err = s.Runs.acquire(ctx, t, t.need); err != nil {
		return skipped(err)
	}
	defer free()
	return s.Worker.Run(ctx, t.index)
}

// skipped marks the error of a step that never started.
func skipped(err error) error { return fmt.Errorf("%w: %w", ErrSkipped, err) }
