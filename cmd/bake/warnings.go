package main

import (
	"fmt"
	"io"

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
