package main

import (
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/bakebuild/bake/planner"
)

// printWarnings prints the warnings of the linter and the planner, one line each. They never stop a build.
func printWarnings(w io.Writer, warnings []planner.Warning) {
	for _, warning := range warnings {
		rule := ""
		if warning.Rule != "" {
			rule = warning.Rule + ": "
		}
		fmt.Fprintf(w, "warning: %s%s%s\n", placeOf(warning.Location), rule, warning.Message)
	}
}

// engineWarnings collects the distinct warnings of an engine, to print them when the progress display is closed.
type engineWarnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *engineWarnings) add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.texts, text) {
		w.texts = append(w.texts, text)
	}
}

// print prints the warnings, one line each.
func (w *engineWarnings) print(to io.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range w.texts {
		fmt.Fprintf(to, "warning: %s\n", text)
	}
}

// placeOf returns "FILE:LINE: ", or "" if the place is unknown.
func placeOf(l planner.Location) string {
	switch {
	case l.File == "":
		return ""
	case l.Start == 0:
		return l.File + ": "
	}
	return fmt.Sprintf("%s:%d: ", l.File, l.Start)
}
