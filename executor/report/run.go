// Package report shows one finished run to people and to other tools: as a trace of its time and as a summary in
// Markdown. All of it is a function of what the run left behind; nothing is asked of a cache or an engine.
package report

import (
	"cmp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// maxName bounds a name that is shown, in bytes: a here-document can be a whole program.
const maxName = 300

// Run is one finished run.
type Run struct {
	Graph  *planner.Graph
	Report *executor.Report
	Spans  []Span
	Err    error // why it failed, or nil
}

// Span is the time that a step or an activity outside of the graph, such as an export, took.
type Span struct {
	Step       digest.Digest
	Name       string
	Start, End time.Time // equal for what was found in the cache
	Cached     bool
	Err        error
}

// Recorder keeps the spans of a run. Its zero value is ready; it is used by one goroutine at a time, as events come.
type Recorder struct {
	spans []Span
	open  map[digest.Digest]int // into spans
	last  time.Time
}

// Event takes one event of an engine.
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
		r.spans[i].End, r.spans[i].Cached, r.spans[i].Err = e.Time, e.Kind == executor.KindCached, e.Err
	}
}

// Spans are all that were seen, by start. What has not ended, as in a run that was stopped, ends with the last event.
func (r *Recorder) Spans() []Span {
	all := slices.Clone(r.spans)
	for _, i := range r.open {
		all[i].End = r.last
	}
	slices.SortStableFunc(all, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return all
}

// lanes puts spans, which are sorted by start, on as few lanes as keep those that overlap apart: the lane of each, from 0.
func lanes(spans []Span) []int {
	var free []time.Time // by lane, when it is free again
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

// slowest are up to n of the spans of steps that ran, the longest first.
func (r Run) slowest(n int) []Span {
	ran := slices.DeleteFunc(slices.Clone(r.Spans), func(s Span) bool { return s.Cached || s.Err != nil })
	slices.SortStableFunc(ran, func(a, b Span) int { return cmp.Compare(b.End.Sub(b.Start), a.End.Sub(a.Start)) })
	return ran[:min(n, len(ran))]
}

// results are the results of the steps by digest, and the steps themselves.
func (r Run) results() (map[digest.Digest]executor.StepResult, map[digest.Digest]*planner.Step) {
	results, steps := map[digest.Digest]executor.StepResult{}, map[digest.Digest]*planner.Step{}
	if r.Report != nil {
		for _, s := range r.Report.Steps {
			results[s.Digest] = s
		}
	}
	if r.Graph != nil {
		for _, s := range r.Graph.Steps {
			steps[s.Digest] = s
		}
	}
	return results, steps
}

// plain makes text that a build wrote fit for one line: valid, without control characters, of at most n bytes and a sign
// that says that it was longer.
func plain(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return strings.Map(func(c rune) rune {
		switch {
		case unicode.IsSpace(c):
			return ' '
		case c == utf8.RuneError, unicode.IsControl(c), unicode.Is(unicode.Bidi_Control, c):
			return -1
		}
		return c
	}, s)
}
