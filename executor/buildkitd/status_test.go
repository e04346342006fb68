package buildkitd

import (
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// TestForgetKeepsFailuresOfOtherBuilders: when a builder is lost, only the failures that it alone reported are dropped.
func TestForgetKeepsFailuresOfOtherBuilders(t *testing.T) {
	steps := map[string]*planner.Step{}
	byDigest := map[digest.Digest]*planner.Step{}
	g := &planner.Graph{}
	for _, name := range []string{"lost", "healthy", "both"} {
		s := &planner.Step{Digest: digest.FromString(name), Name: name, Op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{}}}}
		steps[name], byDigest[s.Digest] = s, s
		g.Steps = append(g.Steps, s)
	}
	lost, healthy := &definitions{steps: byDigest}, &definitions{steps: byDigest}
	s := newStatus(g, nil)
	now := time.Now()
	fail := func(on *definitions, name string) {
		s.vertex(on, &client.Vertex{Digest: steps[name].Digest, Started: &now, Completed: &now, Error: "exit code: 1"})
	}
	fail(lost, "lost")
	fail(healthy, "healthy")
	fail(lost, "both")
	fail(healthy, "both")
	s.forget(lost)
	got := s.results()
	want := []executor.StepStatus{executor.StatusSkipped, executor.StatusFailed, executor.StatusFailed}
	for i, step := range g.Steps {
		if got[i].Status != want[i] {
			t.Errorf("step %s: got %s, want %s", step.Name, got[i].Status, want[i])
		}
	}
}

// TestCheckedSourceHasNoReason reports sources that were only checked, and a command that ran.
func TestCheckedSourceHasNoReason(t *testing.T) {
	source := func(id string) *planner.Step {
		return &planner.Step{Digest: digest.FromString(id),
			Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}}}
	}
	steps := []*planner.Step{source("local://context"), source("docker-image://docker.io/library/a:1"),
		{Digest: "sha256:run", Op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{}}}}}
	s := newStatus(&planner.Graph{Steps: steps}, nil)
	now := time.Now()
	for _, step := range steps {
		s.vertex(&definitions{}, &client.Vertex{Digest: step.Digest, Started: &now, Completed: &now})
	}
	got := s.results()
	for i, want := range []executor.StepStatus{executor.StatusNotNeeded, executor.StatusNotNeeded, executor.StatusRan} {
		if got[i].Status != want || (got[i].Reason == "") != (want == executor.StatusNotNeeded) {
			t.Errorf("step %d: %s, reason %q", i, got[i].Status, got[i].Reason)
		}
	}
}
