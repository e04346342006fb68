package report

import (
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
)

// Recorder records the spans of a run. The zero value is ready for use. It is not safe for concurrent use.
type Recorder struct {
	spans []Span
	open  map[digest.Digest]int // into spans
	last  time.Time
}

// Event records one event of an engine. Events must be passed in the order in which they occurred.
func (r *Recorder) Event(e executor.Event) {
	r.last = e.Time
	i, open := r.open[e.Step]
	switch e.Kind {
	case executor.KindStart:
		if r.open == nil {
			r.open = map[digest.Digest]int{}
		}
		r.open[e.Step] = len(r.spans)
		r.spans = append(r.spans, Span{Step: e.Step, Name: e.Name, Start: e.Time})
	case executor.KindCached, executor.KindDone:
		if !open {
			r.spans = append(r.spans, Span{Step: e.Step, Name: e.Name, Start: e.Time})
			i = len(r.spans) - 1
		}
		delete(r.open, e.Step)
		r.spans[i].End, r.spans[i].Cached = e.Time, e.Kind == executor.KindCached
		if e.Err != nil {
			r.spans[i].Error = e.Err.Error()
		}
	}
}

// Spans returns the recorded spans, sorted by start. A span that has not ended, as in a run that was stopped, ends with
// the last event.
func (r *Recorder) Spans() []Span {
	all := slices.Clone(r.spans)
	for _, i := range r.open {
		all[i].End = r.last
	}
	slices.SortStableFunc(all, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return all
}

// lanes assigns spans, which must be sorted by start, to as few lanes as possible such that spans on one lane do not
// overlap. It returns the lane of each span, from 0.
func lanes(spans []Span) []int {
	var free []time.Time // end of the last span, by lane
	out := make([]int, len(spans))
	for i, s := range spans {
		lane := slices.IndexFunc(free, func(t time.Time) bool { return !t.After(s.Start) })
		if lane < 0 {
			lane = len(free)
			free = append(free, time.Time{})
		}
		free[lane], out[i] = s.End, lane
	}
	return out
}
