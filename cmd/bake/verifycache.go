package main

import (
	"fmt"
	"strings"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// maxDiffering bounds the paths that are listed of one step.
const maxDiffering = 10

// tellVerified says which steps came to something else than what the cache has of them. The error is a differenceError
// when any did.
func (a *app) tellVerified(g *planner.Graph, done *executor.Report) error {
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
		fmt.Fprintf(a.stdout, "not reproducible: %s%s (%s)\n", placeOfStep(step), step.Name, strings.Join(step.Targets, ", "))
		for _, path := range r.Differs[:min(len(r.Differs), maxDiffering)] {
			fmt.Fprintf(a.stdout, "  %s\n", path)
		}
		if more := len(r.Differs) - maxDiffering; more > 0 {
			fmt.Fprintf(a.stdout, "  and %d more\n", more)
		}
	}
	if differ > 0 {
		return differenceError{fmt.Sprintf("%s of %d in the cache came to something else when run again", plural(differ, "step"), verified)}
	}
	fmt.Fprintf(a.stderr, "%s in the cache came to the same when run again\n", plural(verified, "step"))
	return nil
}

// placeOfStep is where a step stands, "" when nobody knows.
func placeOfStep(s *planner.Step) string {
	if len(s.Source) == 0 {
		return ""
	}
	return placeOf(s.Source[0])
}
