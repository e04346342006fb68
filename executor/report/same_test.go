package report

import (
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// TestMergeSame holds how steps with equal files become one: the result is that of the step that ran, the names and
// places of all are found, and indices stay right.
func TestMergeSame(t *testing.T) {
	at := func(file string) []planner.Location { return []planner.Location{{File: file, Start: 2}} }
	cause := executor.Cause{Kind: executor.CauseNew}
	r := Run{
		Steps: []Step{
			{Digest: "sha256:context", Name: "context", Targets: []string{"a", "b"}},
			{Digest: "sha256:aaaaaaaa", Name: "COPY a", Source: at("a"), Targets: []string{"a"}, Inputs: []int{0},
				Status: executor.StatusCached},
			{Digest: "sha256:bbbbbbbb", Name: "COPY b", Source: at("b"), Targets: []string{"b"}, Inputs: []int{0},
				Status: executor.StatusRan, Causes: []executor.Cause{cause}, Log: "log"},
			{Digest: "sha256:cccccccc", Name: "RUN x", Targets: []string{"b"}, Inputs: []int{2}, Tests: []int{1, 0, 2},
				Status: executor.StatusRan,
				Causes: []executor.Cause{{Kind: executor.CauseInput, Step: "sha256:bbbbbbbb"}}},
		},
		Spans: []Span{
			{Step: "sha256:aaaaaaaa", Cached: true},
			{Step: "sha256:bbbbbbbb", Start: time.Unix(1, 0), End: time.Unix(2, 0)},
		},
	}
	index := r.mergeSame(map[digest.Digest]digest.Digest{"sha256:bbbbbbbb": "sha256:aaaaaaaa"})
	if len(r.Steps) != 3 || index[3] != 2 || r.Steps[2].Inputs[0] != 1 {
		t.Fatalf("got %+v, indices %v", r.Steps, index)
	}
	if got := r.Steps[2].Tests; !slices.Equal(got, []int{0, 1}) {
		t.Errorf("the tests are %v, want each once", got)
	}
	s := r.Steps[1]
	if s.Status != executor.StatusRan || s.Log != "log" || len(s.Targets) != 2 || len(s.Also) != 1 {
		t.Errorf("got %+v", s)
	}
	if len(r.Spans) != 1 || r.Spans[0].Step != s.Digest || r.Spans[0].Cached {
		t.Errorf("spans %+v", r.Spans)
	}
	for _, query := range []string{"sha256:bbbbbbbb", "b:2", "COPY b", "a:2"} {
		if got := r.FindSteps(query); len(got) != 1 || got[0] != 1 {
			t.Errorf("%s: %v", query, got)
		}
	}
	var b strings.Builder
	if err := r.Explain(r.All()).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"also COPY b  b:2", "as a result:\n    ran  RUN x"} {
		if text := b.String(); !strings.Contains(text, want) {
			t.Errorf("got %s, want %s", text, want)
		}
	}
}
