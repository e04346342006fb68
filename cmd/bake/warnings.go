package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// printWarnings lists what the linter and the planner found, one line each. They never stop a build.
func printWarnings(w io.Writer, warnings []planner.Warning) {
	for _, warning := range warnings {
		rule := ""
		if warning.Rule != "" {
			rule = warning.Rule + ": "
		}
		fmt.Fprintf(w, "warning: %s%s%s\n", placeOf(warning.Location), rule, warning.Message)
	}
}

// warnResources says of targets that ask for limits that they have none: steps run with what this process has.
func warnResources(w io.Writer, p *config.Project) {
	for _, name := range slices.Sorted(maps.Keys(p.Targets)) {
		if t := p.Targets[name]; len(t.Resources) > 0 {
			fmt.Fprintf(w, "warning: target %s: its resources are not applied, steps run without limits of their own\n", name)
		}
	}
}

// placeOf is "FILE:LINE: ", or empty when the place is unknown.
func placeOf(l planner.Location) string {
	switch {
	case l.File == "":
		return ""
	case l.Start == 0:
		return l.File + ": "
	}
	return fmt.Sprintf("%s:%d: ", l.File, l.Start)
}
