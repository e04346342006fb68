package main

import (
	"fmt"
	"io"
	"slices"
	"sync"

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

// besideWarnings collects what an engine warns of while the progress is drawn.
type besideWarnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *besideWarnings) add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.texts, text) {
		w.texts = append(w.texts, text)
	}
}

// print lists them, one line each.
func (w *besideWarnings) print(to io.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range w.texts {
		fmt.Fprintf(to, "warning: %s\n", text)
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
