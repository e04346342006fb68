package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRunIsBounded shows that checks that hang, with and without their context, delay neither the others nor the end,
// and that results keep their order.
func TestRunIsBounded(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	checks := []Check{
		{Name: "slow", Run: func(ctx context.Context) Finding {
			<-ctx.Done()
			return fail(late(ctx, ctx.Err()), "wait")
		}},
		{Name: "stuck", Run: func(context.Context) Finding { <-block; return okf("never") }},
		{Name: "good", Run: func(context.Context) Finding {
			return okf("a\nb\x1b[31m\tc%s", strings.Repeat("x", 2000))
		}},
	}
	for i := range 50 {
		checks = append(checks, Check{Name: fmt.Sprint(i), Run: func(ctx context.Context) Finding {
			<-ctx.Done()
			return okf("end")
		}})
	}
	var got []Result
	start := time.Now()
	if err := run(t.Context(), checks, 100*time.Millisecond, func(r Result) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 100*time.Millisecond+grace+2*time.Second {
		t.Errorf("took %s", took)
	}
	if len(got) != len(checks) {
		t.Fatalf("%d results of %d checks", len(got), len(checks))
	}
	for i, r := range got {
		if r.Name != checks[i].Name {
			t.Errorf("result %d is of %s, want %s", i, r.Name, checks[i].Name)
		}
	}
	got[0].want(t, Failure, "no answer within", "wait")
	if f := got[1].Finding; f.Status != Failure || !strings.Contains(f.Detail, "no result within") {
		t.Errorf("stuck check: %+v", f)
	}
	if d := got[2].Detail; !strings.HasPrefix(d, "a; b[31m cx") || len(d) > maxLine+len("…") {
		t.Errorf("%d bytes: %.40q", len(d), d)
	}
}

// TestRunEnds shows that an interrupted report ends at once.
func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	time.AfterFunc(50*time.Millisecond, func() { cancel(stop) })
	hang := Check{Name: "hang", Run: func(context.Context) Finding { select {} }}
	start := time.Now()
	err := run(ctx, []Check{hang}, time.Minute, func(r Result) { t.Errorf("result %+v", r) })
	if !errors.Is(err, stop) || time.Since(start) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}
