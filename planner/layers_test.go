package planner_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// TestTooManyLayers shows that a plan warns of the first command on more layers than Linux stacks, with its line.
func TestTooManyLayers(t *testing.T) {
	run := "RUN [\"x\", \"%d\"]\n"
	var text strings.Builder
	text.WriteString("FROM scratch\nCOPY f /\n")
	for i := range 503 {
		fmt.Fprintf(&text, run, i)
	}
	file, shorter := text.String(), strings.TrimSuffix(text.String(), "RUN [\"x\", \"499\"]\nRUN [\"x\", \"500\"]\n"+
		"RUN [\"x\", \"501\"]\nRUN [\"x\", \"502\"]\n")
	for content, want := range map[string]int{file: 1, shorter: 0} {
		p := &config.Project{Dir: t.TempDir(), Requested: []string{"t"}, Targets: map[string]*config.Target{
			"t": {Name: "t", Context: ".", DockerfileInline: &content},
		}}
		g, err := planner.Plan(t.Context(), p, planner.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(g.Warnings) != want {
			t.Fatalf("%d warnings: %v", len(g.Warnings), g.Warnings)
		}
		if want == 0 {
			continue
		}
		// COPY is on line 2 and makes the first layer: the RUN on line 502 has 500 below it.
		w := g.Warnings[0]
		if w.Location.Start != 502 || w.Target != "t" || !strings.Contains(w.Message, "up to 500 layers") {
			t.Errorf("%+v", w)
		}
	}
}
