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

// TestCheckedSourceHasNoReason reports sources that were only checked, and a command that ran.
func TestCheckedSourceHasNoReason(t *testing.T) {
	source := func(id string) *planner.Step {
		return &planner.Step{Digest: digest.FromString(id), Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}}}
	}
	steps := []*planner.Step{source("local://context"), source("docker-image://docker.io/library/a:1"), {Digest: "sha256:run", Op: &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{}}}}}
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
