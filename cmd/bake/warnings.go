package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

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

// showWarnings prints warnings as the progress display of a build shows them: as text, or with --progress=rawjson as
// BuildKit encodes them.
func (a *app) showWarnings(o runOptions, warnings []planner.Warning) {
	if len(warnings) == 0 {
		return
	}
	if o.progressMode(a) != "rawjson" {
		printWarnings(a.stderr, warnings)
		return
	}
	status := client.SolveStatus{}
	for _, w := range warnings {
		one := &client.VertexWarning{
			Vertex: digest.FromString(w.Location.File), Level: 1, Short: []byte(w.Message), URL: w.URL,
			Detail:     [][]byte{[]byte(w.Description)},
			SourceInfo: &pb.SourceInfo{Filename: w.Location.File},
		}
		if w.Rule != "" {
			one.Short = []byte(w.Rule + ": " + w.Message)
		}
		if at := w.Location; at.Start > 0 {
			one.Range = []*pb.Range{{
				Start: &pb.Position{Line: int32(at.Start)}, End: &pb.Position{Line: int32(at.End)},
			}}
		}
		status.Warnings = append(status.Warnings, one)
	}
	_ = json.NewEncoder(a.stderr).Encode(status) // nothing can report an error of stderr
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
