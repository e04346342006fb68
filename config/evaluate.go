package config

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Bounds of the memory of an evaluation, in bytes above what is used when it begins, and how often it is looked at.
const (
	maxHeap   = 288 << 20
	softHeap  = 384 << 20 // of the whole process, from which on garbage is collected often
	heapPause = 5 * time.Millisecond
)

// evaluationLimit is how long an evaluation may take: hundreds of times what thousands of targets need.
const evaluationLimit = 20 * time.Second

// runBounded reads the files and evaluates until the time is up or ctx is cancelled. An evaluation that is given up goes on
// beside, since nothing can stop one in the middle of an expression; the caller is about to end.
func runBounded[T any](ctx context.Context, opts Options, evaluate func(*loader) (T, hcl.Diagnostics)) (T, error) {
	limit := opts.Limit
	if limit == 0 {
		limit = evaluationLimit
	}
	var none T
	var far *remote
	if opts.Definition != nil {
		var err error
		if far, err = opts.Definition.open(ctx); err != nil {
			return none, Diagnostics{list: hcl.Diagnostics{problem(nil, "%v", err)}, cause: err}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		if far != nil {
			defer far.root.Close()
		}
		l, diags := newLoader(ctx, opts, far)
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
		return none, Diagnostics{list: hcl.Diagnostics{one}}
	}
}

// heapBytes is what this process had in use when its garbage was last collected, in bytes.
func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
