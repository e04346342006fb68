package config

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Bounds of the memory of an evaluation.
const (
	maxHeap   = 288 << 20            // bytes of live heap above those at the start
	softHeap  = 384 << 20            // bytes of the whole process; the garbage collector runs more often above it
	heapPause = 5 * time.Millisecond // between two measurements
)

// endTime bounds the wait for an evaluation to end after its limit.
const endTime = time.Second

// evaluationLimit is the default time limit of an evaluation. Thousands of targets need less than a second.
const evaluationLimit = 20 * time.Second

// runBounded reads the files and calls evaluate, within limits of time and memory.
//
// Project files are programs: a few nested loops over short lists need unlimited time and memory. So the evaluation
// runs in its own goroutine, and this function watches the clock, ctx and the live heap from outside. When a limit is
// reached, it ends ctx, by which the goroutine ends at its next loop iteration (see interruptible), waits for that, and
// returns a diagnostic. The soft memory limit makes the garbage collector run often enough for the heap measurements to
// be current. What exhausts the stack or the memory within one parser call is refused before parsing: see checkText.
// TestBombs shows both.
func runBounded[T any](ctx context.Context, opts Options, evaluate func(*loader) (T, hcl.Diagnostics)) (T, error) {
	limit := opts.Limit
	if limit == 0 {
		limit = evaluationLimit
	}
	var none T
	var fetched *remote
	if opts.Definition != nil {
		var err error
		if fetched, err = opts.Definition.open(ctx); err != nil {
			return none, Diagnostics{list: hcl.Diagnostics{problem(nil, "%v", err)}, cause: err}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done, ended := make(chan result, 1), make(chan struct{})
	go func() {
		defer close(ended)
		if fetched != nil {
			defer fetched.root.Close()
		}
		l, diags := newLoader(ctx, opts, fetched)
		value := none
		if !diags.HasErrors() {
			value, diags = evaluate(l)
		}
		if diags.HasErrors() {
			done <- result{none, l.failed(diags)}
			return
		}
		done <- result{value, nil}
	}()
	if old := debug.SetMemoryLimit(-1); old > softHeap {
		debug.SetMemoryLimit(softHeap)
		defer debug.SetMemoryLimit(old)
	}
	for before := heapBytes(); ; {
		var one *hcl.Diagnostic
		select {
		case r := <-done:
			return r.value, r.err
		case <-ctx.Done():
			one = problem(nil, "project files not evaluated within %v; look for nested loops (for … in)", limit)
		case <-time.After(heapPause):
			if now := heapBytes(); now < before+maxHeap {
				continue
			}
			one = problem(nil, "project files take more than %d MiB to evaluate; look for nested loops (for … in) "+
				"and values that double", maxHeap>>20)
		}
		cancel()
		waitFor(ended)
		return none, Diagnostics{list: hcl.Diagnostics{one}}
	}
}

// waitFor waits until an evaluation has ended, but not for long: a call of one function cannot be interrupted.
func waitFor(ended <-chan struct{}) {
	select {
	case <-ended:
	case <-time.After(endTime):
	}
}

// heapBytes returns the bytes of live heap objects at the last garbage collection.
func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
