package planner

import (
	"encoding/json"
	"fmt"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxLayers is the number of layers below a command that Linux stacks in an overlay.
const maxLayers = 499

// warnOfLayers warns of commands that may run on more layers than Linux stacks, at the first one of each chain. A step
// that changes no file has no layer, which only running it shows, so this is no error: the command fails then.
func (m *merger) warnOfLayers() {
	below := map[*Step]int{} // the layers of a step's root file system, with its own
	for _, image := range m.graph.Images {
		if source := sourceBelow(image.Root.Step); source != nil {
			below[source] = max(below[source], layersOf(image.Config))
		}
	}
	over := map[*Step]bool{}
	for _, s := range m.graph.Steps {
		switch {
		case s.Op.GetSource() != nil:
			continue
		case s.Op.GetMerge() != nil:
			for _, in := range s.Inputs {
				below[s] += below[in.Step]
			}
			continue
		}
		parent := parentOf(s)
		below[s] = below[parent] + 1
		over[s] = over[parent]
		if s.Op.GetExec() == nil || below[parent] <= maxLayers || over[parent] {
			continue
		}
		over[s] = true
		w := Warning{Target: s.Targets[0], Message: fmt.Sprintf("up to %d layers are below this command, and Linux "+
			"stacks only %d: join consecutive RUN instructions, or copy the files into a new stage", below[parent],
			maxLayers)}
		if len(s.Source) > 0 {
			w.Location = s.Source[0]
		}
		m.warn(w)
	}
}

// sourceBelow returns the source at the bottom of the chain of root file systems that ends in a step, or nil.
func sourceBelow(s *Step) *Step {
	for s != nil && s.Op.GetSource() == nil {
		s = parentOf(s)
	}
	return s
}

// layersOf returns the number of layers in an image config, which before a build are those of the base.
func layersOf(config []byte) int {
	var c struct {
		RootFS ocispecs.RootFS `json:"rootfs"`
	}
	if json.Unmarshal(config, &c) != nil {
		return 0
	}
	return len(c.RootFS.DiffIDs)
}
