package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// fakeWorker records the calls of the scheduler and answers from its fields.
type fakeWorker struct {
	mu       sync.Mutex
	log      []string
	active   int
	peak     int
	cached   map[int]bool
	prepared map[int]bool
	onRun    func(ctx context.Context, step int) error
}

func (w *fakeWorker) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *fakeWorker) Lookup(_ context.Context, step int) (bool, error) {
	w.note("lookup %d", step)
	return w.cached[step], nil
}

func (w *fakeWorker) Prepare(_ context.Context, step int) (bool, func(), error) {
	w.note("prepare %d", step)
	if w.prepared[step] {
		return true, nil, nil
	}
	return false, func() { w.note("release %d", step) }, nil
}

func (w *fakeWorker) Run(ctx context.Context, step int) error {
	w.mu.Lock()
	w.active++
	w.peak = max(w.peak, w.active)
	w.mu.Unlock()
	defer func() { w.mu.Lock(); w.active--; w.mu.Unlock() }()
	w.note("run %d", step)
	if w.onRun != nil {
		return w.onRun(ctx, step)
	}
	return nil
}

// ran returns the steps that were run, in the order of their starts.
func (w *fakeWorker) ran() []int {
	var steps []int
	for _, l := range w.log {
		var n int
		if _, err := fmt.Sscanf(l, "run %d", &n); err == nil {
			steps = append(steps, n)
		}
	}
	return steps
}

// equalTasks gives all steps the same weight and need.
func equalTasks(inputs [][]int) []Task {
	return NewTasks(inputs, func(int) time.Duration { return 1 }, func(int) Need { return Need{Slots: 1} })
}

func schedule(ctx context.Context, w Worker, jobs int, inputs [][]int) ([]error, error) {
	s := &Scheduler{Worker: w, Lookups: NewLimiter(2, 0), Runs: NewLimiter(jobs, 0)}
	errs, failures := s.Run(ctx, equalTasks(inputs))
	return errs, errors.Join(failures...)
}

func TestSchedulerKeepsGoing(t *testing.T) {
	broken := errors.New("broken")
	w := &fakeWorker{onRun: func(_ context.Context, step int) error {
		if step == 0 || step == 4 {
			return broken
		}
		return nil
	}}
	s := &Scheduler{Worker: w, Lookups: NewLimiter(2, 0), Runs: NewLimiter(1, 0), KeepGoing: true}
	errs, failures := s.Run(t.Context(), equalTasks([][]int{{}, {0}, {}, {2}, {}, {3, 1}}))
	if diff := cmp.Diff([]error{broken, ErrSkipped, nil, nil, broken, ErrSkipped}, errs,
		cmpopts.EquateErrors()); diff != "" {
		t.Error(diff)
	}
	if len(failures) != 2 {
		t.Errorf("failures: %v", failures)
	}
}

func TestSchedulerRunsEachStepOnceAfterItsInputs(t *testing.T) {
	inputs := [][]int{{}, {0, 0}, {0}, {1, 2}, {3, 0}}
	for _, jobs := range []int{1, 2, 8} {
		w := &fakeWorker{}
		if _, err := schedule(t.Context(), w, jobs, inputs); err != nil {
			t.Fatal(err)
		}
		order := w.ran()
		if sorted := slices.Sorted(slices.Values(order)); !slices.Equal(sorted, []int{0, 1, 2, 3, 4}) {
			t.Errorf("-j %d ran %v", jobs, order)
		}
		for i, in := range inputs {
			for _, k := range in {
				if slices.Index(order, k) > slices.Index(order, i) {
					t.Errorf("-j %d: step %d ran before its input %d: %v", jobs, i, k, order)
				}
			}
		}
		if w.peak > jobs {
			t.Errorf("-j %d: %d steps at once", jobs, w.peak)
		}
	}
}

func TestSchedulerTouchesNoContentOfCachedSteps(t *testing.T) {
	w := &fakeWorker{cached: map[int]bool{0: true, 1: true}}
	if _, err := schedule(t.Context(), w, 2, [][]int{{}, {0}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"lookup 0", "lookup 1"}, w.log); diff != "" {
		t.Error(diff)
	}
}

func TestSchedulerFoundAfterWaiting(t *testing.T) {
	w := &fakeWorker{prepared: map[int]bool{0: true}}
	if _, err := schedule(t.Context(), w, 1, [][]int{{}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"lookup 0", "prepare 0"}, w.log); diff != "" {
		t.Error(diff)
	}
}

func TestTaskHeightIsTheLongestWayToAnImage(t *testing.T) {
	// 1 is a leaf of its own; 2 is an input of 3, and 3 of 4.
	weight := func(i int) time.Duration { return time.Duration(i + 1) }
	tasks := NewTasks([][]int{{}, {0}, {0}, {2}, {3}}, weight, func(int) Need { return Need{} })
	var heights []time.Duration
	for _, task := range tasks {
		heights = append(heights, task.height)
	}
	if diff := cmp.Diff([]time.Duration{1 + 3 + 4 + 5, 2, 3 + 4 + 5, 4 + 5, 5}, heights); diff != "" {
		t.Error(diff)
	}
}

func TestSchedulerStopsAtTheFirstFailure(t *testing.T) {
	boom := errors.New("boom")
	started := make(chan struct{})
	w := &fakeWorker{onRun: func(ctx context.Context, step int) error {
		switch step {
		case 0:
			<-started
			return boom
		case 1:
			close(started)
			<-ctx.Done() // a step that runs at the same time is cancelled
			return context.Cause(ctx)
		}
		return nil
	}}
	errs, err := schedule(t.Context(), w, 2, [][]int{{}, {}, {0}, {1}})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	if !errors.Is(errs[2], ErrSkipped) || !errors.Is(errs[3], ErrSkipped) {
		t.Errorf("users of failed steps: %v, %v", errs[2], errs[3])
	}
	if slices.Contains(w.ran(), 2) || slices.Contains(w.ran(), 3) {
		t.Errorf("ran %v", w.ran())
	}
	if !slices.Contains(w.log, "release 0") || !slices.Contains(w.log, "release 1") {
		t.Errorf("a prepared step was not released: %v", w.log)
	}
}

func TestSchedulerStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &fakeWorker{onRun: func(ctx context.Context, _ int) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}}
	errs, err := schedule(ctx, w, 1, [][]int{{}, {}, {0}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if len(w.ran()) != 1 || errs[2] != ErrSkipped {
		t.Errorf("ran %v, errors %v", w.ran(), errs)
	}
}

func TestSchedulerRetriesStaleSteps(t *testing.T) {
	runs := 0
	w := &fakeWorker{onRun: func(context.Context, int) error {
		if runs++; runs < 3 {
			return fmt.Errorf("a.txt: %w", ErrStale)
		}
		return nil
	}}
	if _, err := schedule(t.Context(), w, 1, [][]int{{}}); err != nil {
		t.Fatal(err)
	}
	if runs != 3 {
		t.Errorf("%d runs", runs)
	}

	runs = 0
	w = &fakeWorker{onRun: func(context.Context, int) error {
		if runs++; runs <= 3*maxAttempts {
			return ErrOvertaken
		}
		return nil
	}}
	if _, err := schedule(t.Context(), w, 1, [][]int{{}}); err != nil {
		t.Errorf("a step that others overtook often: %v", err)
	}

	w = &fakeWorker{onRun: func(context.Context, int) error { return ErrStale }}
	if _, err := schedule(t.Context(), w, 1, [][]int{{}}); !errors.Is(err, ErrStale) {
		t.Errorf("endless change: %v", err)
	}
	if n := len(w.ran()); n != maxAttempts {
		t.Errorf("%d tries", n)
	}
}

// TestSchedulerBoundsReservations: the steps between Prepare and the end of Run keep at most as many files open as
// Files allows, however many are ready, and all run.
func TestSchedulerBoundsReservations(t *testing.T) {
	inputs := make([][]int, 40)
	inputs[39] = []int{38}
	w := &reserving{}
	s := &Scheduler{Worker: w, Lookups: NewLimiter(4, 0), Runs: NewLimiter(2, 0), Files: NewLimiter(12, 0)}
	tasks := NewTasks(inputs, func(int) time.Duration { return 1 }, func(int) Need { return Need{Slots: 1, Files: 3} })
	if _, failures := s.Run(t.Context(), tasks); len(failures) > 0 {
		t.Fatal(failures)
	}
	if w.peak != 4 || w.total != 40 {
		t.Errorf("%d steps of %d were reserved at once, want 4 of 40", w.peak, w.total)
	}
}

// reserving counts the steps that are reserved.
type reserving struct {
	mu                    sync.Mutex
	reserved, peak, total int
}

func (w *reserving) Lookup(context.Context, int) (bool, error) { return false, nil }

func (w *reserving) Prepare(context.Context, int) (bool, func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reserved++
	w.total++
	w.peak = max(w.peak, w.reserved)
	return false, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.reserved--
	}, nil
}

func (w *reserving) Run(context.Context, int) error { time.Sleep(time.Millisecond); return nil }
