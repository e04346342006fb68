package main

import (
	"fmt"
	"strings"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// maxDiffering is the maximum number of paths listed for one step.
const maxDiffering = 10

// printVerified prints the steps that --verify-cache ran again with a different result. It returns a differenceError if
// there are any.
func (a *app) printVerified(g *planner.Graph, done *executor.Report) error {
	verified, differ := 0, 0
	for i, r := range done.Steps {
		if !r.Verified {
			continue
		}
		verified++
		if len(r.Differs) == 0 {
			continue
		}
		differ++
		step := g.Steps[i]
		fmt.Fprintf(a.stdout, "not reproducible: %s%s (%s)\n",
			placeOfStep(step), step.Name, strings.Join(step.Targets, ", "))
		for _, path := range r.Differs[:min(len(r.Differs), maxDiffering)] {
			fmt.Fprintf(a.stdout, "  %s\n", path)
		}
		if more := len(r.Differs) - maxDiffering; more > 0 {
			fmt.Fprintf(a.stdout, "  and %d more\n", more)
		}
	}
	if differ > 0 {
		text := fmt.Sprintf("re-ran %s: %d with a different result", plural(verified, "cached step"), differ)
		return differenceError{text}
	}
	fmt.Fprintf(a.stderr, "re-ran %s: same results\n", plural(verified, "cached step"))
	return nil
}

// placeOfStep returns "FILE:LINE: " of a step, or "" if the place is unknown.
func placeOfStep(s *planner.Step) string {
	if len(s.Source) == 0 {
		return ""
	}
	return placeOf(s.Source[0])
}
