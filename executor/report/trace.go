package report

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/bakebuild/bake/executor"
)

// traceEvent is an event of Chrome's trace format, for Perfetto and chrome://tracing. Times are in microseconds since
// the run's start.
type traceEvent struct {
	Name     string         `json:"name"`
	Category string         `json:"cat,omitempty"`
	Phase    string         `json:"ph"` // X: complete event, i: instant event, M: metadata
	Scope    string         `json:"s,omitempty"`
	Start    int64          `json:"ts"`
	Duration *int64         `json:"dur,omitempty"`
	Process  int            `json:"pid"`
	Lane     int            `json:"tid"`
	Args     map[string]any `json:"args,omitempty"`
}

// WriteTrace writes the run in Chrome's trace format. Steps that ran at the same time are on different lanes. A step
// found in the cache is an instant event.
func (r Run) WriteTrace(w io.Writer) error {
	steps := r.index()
	events := []traceEvent{{Name: "process_name", Phase: "M", Process: 1, Args: map[string]any{"name": "bake"}}}
	named := 0
	at := lanes(r.Spans)
	for i, s := range r.Spans {
		for ; named <= at[i]; named++ {
			events = append(events, traceEvent{
				Name: "thread_name", Phase: "M", Process: 1, Lane: named,
				Args: map[string]any{"name": fmt.Sprintf("lane %d", named+1)},
			})
		}
		e := traceEvent{
			Name: plain(s.nameIn(steps), maxName), Category: s.category(steps[s.Step] != nil), Phase: "X", Process: 1,
			Lane:  at[i],
			Start: max(0, s.Start.Sub(r.Started).Microseconds()), Args: map[string]any{},
		}
		if s.Cached {
			e.Phase, e.Scope = "i", "t"
		} else {
			length := s.End.Sub(s.Start).Microseconds()
			e.Duration = &length
		}
		if step := steps[s.Step]; step != nil {
			e.Args["digest"], e.Args["targets"] = step.Digest, step.Targets
			if place := executor.Place(step.Source); place != "" {
				e.Args["source"] = place
			}
		}
		if step := steps[s.Step]; step != nil && step.Reason != "" && !s.Cached {
			e.Args["reason"] = plain(step.Reason, maxName)
		}
		if s.Error != "" {
			e.Args["error"] = plain(s.Error, maxName)
		}
		events = append(events, e)
	}
	return json.NewEncoder(w).Encode(map[string]any{"displayTimeUnit": "ms", "traceEvents": events})
}

// category returns the event category, by which a viewer can filter.
func (s Span) category(isStep bool) string {
	switch {
	case s.Error != "":
		return "failed"
	case s.Cached:
		return "cached"
	case isStep:
		return "step"
	}
	return "activity"
}
