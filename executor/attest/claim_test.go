package attest

import (
	"encoding/json"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/planner"
)

// TestClaimedSteps: provenance lists the steps that a remote cache claims, and changes nothing else.
func TestClaimedSteps(t *testing.T) {
	one := &planner.Step{Digest: digest.FromString("one"), Name: "RUN one"}
	two := &planner.Step{Digest: digest.FromString("two"), Name: "RUN two"}
	p := provenance{steps: []*planner.Step{one, two}}
	if len(p.claimed(true)) > 0 {
		t.Error("claims without a cache")
	}
	p.source.Claim = func(s *planner.Step) string {
		if s == two {
			return "registry.example.com/cache"
		}
		return ""
	}
	in := map[string]any{"runDetails": map[string]any{"metadata": map[string]any{"a": 1}, "b": "c"}}
	raw, err := withClaimed(in, p.claimed(false), "runDetails", "metadata")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		RunDetails struct {
			Metadata struct {
				A     int           `json:"a"`
				Steps []claimedStep `json:"bake_claims"`
			} `json:"metadata"`
			B string `json:"b"`
		} `json:"runDetails"`
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	want := claimedStep{Step: two.Digest, Cache: "registry.example.com/cache"}
	m := got.RunDetails.Metadata
	if m.A != 1 || got.RunDetails.B != "c" || len(m.Steps) != 1 || m.Steps[0] != want {
		t.Errorf("%s", raw)
	}
	if p.claimed(true)[0].Name != two.Name {
		t.Error("mode=max lacks the name")
	}
}
