package planner_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// FuzzDockerfile plans arbitrary text as a Dockerfile. The frontend must not panic or run for long, the graph must be
// consistent, and planning again must give the same graph.
func FuzzDockerfile(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if strings.Contains(strings.ToLower(file.Name), "dockerfile") {
				f.Add(string(file.Data), "")
			}
		}
	}
	f.Add("ARG A=1\nFROM alpine:$A AS b\nENV B=${A//1/$A} C=${B%x*}\nONBUILD ENV C=$C$C\nFROM b\nSHELL "+
		"[\"x\"]\nEXPOSE 1-3/udp\n", "*\n!a\n")
	f.Add("FROM alpine\nHEALTHCHECK --interval=1s CMD x\nVOLUME [\"/a\"]\nSTOPSIGNAL 9\nUSER a:b\nMAINTAINER m\n", "")
	dir := f.TempDir()
	write(f, dir, map[string]string{"lib/x": ""})
	f.Fuzz(func(t *testing.T, dockerfile, ignore string) {
		write(t, dir, map[string]string{"Dockerfile": dockerfile, ".dockerignore": ignore})
		p := project(dir, &config.Target{Name: "a", Contexts: map[string]string{"lib": "lib"},
			Args: map[string]string{"A": "1"}})
		start := time.Now()
		g, err := planner.Plan(t.Context(), p, options())
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		if err != nil {
			if strings.Contains(err.Error(), "frontend panicked") && !strings.Contains(err.Error(), "resolver") {
				t.Error(err)
			}
			return
		}
		checkGraph(t, g)
		// A warning may suggest any of several equally similar names.
		before, _, _ := strings.Cut(text(t, p, options()), "\nwarning ")
		after, _, _ := strings.Cut(text(t, p, options()), "\nwarning ")
		if before != after {
			t.Errorf("plan differs:\n%s\n%s", before, after)
		}
	})
}
