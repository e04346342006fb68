package planner_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// TestSharedTags checks the warning for a tag that targets with different images share, however it is spelled. Targets
// with equal images may share a tag.
func TestSharedTags(t *testing.T) {
	dockerfile := func(s string) *string { return &s }
	one, other := dockerfile("FROM scratch\nLABEL a=1"), dockerfile("FROM scratch\nLABEL a=2")
	p := project(t.TempDir(),
		&config.Target{Name: "a", DockerfileInline: one, Tags: []string{"app", "only:a"}},
		&config.Target{Name: "b", DockerfileInline: other, Tags: []string{"docker.io/library/app:latest", "alike:1"}},
		&config.Target{Name: "c", DockerfileInline: other, Tags: []string{"alike:1"}},
	)
	g, err := planner.Plan(t.Context(), p, options())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range g.Warnings {
		got = append(got, w.Message)
	}
	want := []string{"targets a, b share the tag app:latest but build different images, and only one image keeps the " +
		"tag; give each target its own tag"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
