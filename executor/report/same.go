package report

import (
	"fmt"
	"io"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
)

// mergeSame makes one step of those that have one result because they read equal files, see executor.StepResult.Same.
// It keeps the first with its inputs, and the result of the one that ran, and lists the others in Also. It returns the
// index of each step in the shorter list.
func (r *Run) mergeSame(same map[digest.Digest]digest.Digest) []int {
	at, of := make([]int, len(r.Steps)), map[digest.Digest]int{}
	kept := r.Steps[:0:0]
	for i, s := range r.Steps {
		for k := range s.Inputs {
			s.Inputs[k] = at[s.Inputs[k]]
		}
		slices.Sort(s.Inputs)
		s.Inputs = slices.Compact(s.Inputs)
		first, ok := of[same[s.Digest]]
		if !ok {
			first = len(kept)
			kept = append(kept, s)
		} else {
			kept[first].add(s)
		}
		at[i], of[s.Digest] = first, first
	}
	for i := range kept {
		for k := range kept[i].Tests {
			kept[i].Tests[k] = at[kept[i].Tests[k]]
		}
		slices.Sort(kept[i].Tests)
		kept[i].Tests = slices.Compact(kept[i].Tests)
	}
	for i := range r.Spans {
		if first, ok := of[r.Spans[i].Step]; ok {
			r.Spans[i].Step = kept[first].Digest
		}
	}
	r.Steps = kept
	r.dropCachedSpans()
	return at
}

// add lists a step with s, whose result it has.
func (s *Step) add(other Step) {
	s.Also = append(s.Also, OtherStep{other.Digest, other.Name, other.Source, other.Targets})
	targets := slices.Concat(s.Targets, other.Targets)
	slices.Sort(targets)
	s.Targets = slices.Compact(targets)
	idle := s.Status == executor.StatusCached || s.Status == executor.StatusSkipped
	if idle && other.active() {
		s.Status, s.Key, s.Reason, s.Causes, s.Claim = other.Status, other.Key, other.Reason, other.Causes, other.Claim
		s.Expected, s.Log, s.Error = other.Expected, other.Log, other.Error
	}
}

// writeAlso writes a line for each further step that a step stands for, at most maxAlso.
func writeAlso(w io.Writer, format string, also []OtherStep) {
	for _, o := range also[:min(len(also), maxAlso)] {
		fmt.Fprintf(w, format, "also "+plain(o.Name, maxShownName)+"  "+plain(executor.Place(o.Source), maxName))
	}
	if more := len(also) - maxAlso; more > 0 {
		fmt.Fprintf(w, format, "also "+counted(more, "more step")+" with equal files")
	}
}

// maxAlso limits the further names of a step in text.
const maxAlso = 5

// dropCachedSpans removes the spans that say "cached" of steps that ran: they are of another step with the same result.
func (r *Run) dropCachedSpans() {
	ran := map[digest.Digest]bool{}
	for _, s := range r.Spans {
		ran[s.Step] = ran[s.Step] || !s.Cached
	}
	seen := map[digest.Digest]bool{}
	r.Spans = slices.DeleteFunc(r.Spans, func(s Span) bool {
		double := s.Cached && (ran[s.Step] || seen[s.Step])
		seen[s.Step] = true
		return double
	})
}
