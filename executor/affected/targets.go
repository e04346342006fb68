package affected

import (
	"encoding/json"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/planner"
)

// Targets are the targets of a graph with their fingerprints. Equal fingerprints mean equal images, as far as commands
// and downloads give equal results.
type Targets struct {
	Names        []string // in the order of the graph
	Fingerprints map[string]digest.Digest
}

// Changed returns the targets whose fingerprints differ from others, in order. The result is not nil.
func (t Targets) Changed(others map[string]digest.Digest) []string {
	names := []string{}
	for _, name := range t.Names {
		if t.Fingerprints[name] != others[name] {
			names = append(names, name)
		}
	}
	return names
}

// TargetsOf returns the targets of a graph, given the fingerprints of its steps in order. The fingerprint of a target
// covers its steps, its tests and the scan of its SBOM, and what the project says about the image and its outputs.
func TargetsOf(g *planner.Graph, steps []digest.Digest) (Targets, error) {
	index := map[*planner.Step]int{}
	for i, s := range g.Steps {
		index[s] = i
	}
	t := Targets{Fingerprints: map[string]digest.Digest{}}
	for _, m := range g.Images {
		root := ""
		if m.Root.Step != nil {
			root = fmt.Sprint(steps[index[m.Root.Step]], " ", m.Root.Index)
		}
		var others []digest.Digest // steps that do not lead to the root: tests, and the scan of the SBOM
		for _, s := range m.Tests {
			others = append(others, steps[index[s]])
		}
		if m.SBOM != nil && m.SBOM.Step != nil {
			others = append(others, steps[index[m.SBOM.Step]])
		}
		earlier := t.Fingerprints[m.Target] // of the platforms of the target so far
		raw, err := json.Marshal([]any{
			earlier, m.Platform, root, string(m.Config), m.Tags, m.Annotations, m.Outputs, m.Provenance, others,
		})
		if err != nil {
			return Targets{}, err
		}
		if earlier == "" {
			t.Names = append(t.Names, m.Target)
		}
		t.Fingerprints[m.Target] = digest.FromBytes(raw)
	}
	return t, nil
}
