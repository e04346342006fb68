package planner

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// LocalPrefix starts the identifier of a build context's source op.
const LocalPrefix = "local://"

// Reads returns the paths that steps read from each build context, by the step of the context. Paths are sorted, have
// no leading slash and may have wildcards. A context that is read as a whole has no entry.
func (g *Graph) Reads() map[*Step][]string {
	paths := map[*Step]map[string]bool{}
	for _, s := range g.Steps {
		for i, in := range s.Inputs {
			if in.Step == nil || !strings.HasPrefix(in.Step.Op.GetSource().GetIdentifier(), LocalPrefix) {
				continue
			}
			if paths[in.Step] == nil {
				paths[in.Step] = map[string]bool{}
			}
			for _, p := range selected(s.Op, i) {
				paths[in.Step][path.Clean("/"+p)] = true
			}
		}
	}
	for _, image := range g.Images {
		if s := image.Root.Step; s != nil && paths[s] != nil {
			paths[s]["/"] = true
		}
	}
	out := map[*Step][]string{}
	for s, set := range paths {
		if set["/"] || len(set) == 0 {
			continue
		}
		for _, p := range slices.Sorted(maps.Keys(set)) {
			out[s] = append(out[s], strings.TrimPrefix(p, "/"))
		}
	}
	return out
}

// selected returns the paths that an op reads from its input i; "/" is the whole input.
func selected(op *pb.Op, i int) []string {
	switch {
	case op.GetFile() != nil:
		var paths []string
		for _, a := range op.GetFile().Actions {
			if int(a.Input) == i {
				return []string{"/"}
			}
			if c := a.GetCopy(); c != nil && int(a.SecondaryInput) == i {
				paths = append(paths, c.Src)
			}
		}
		return paths
	case op.GetExec() != nil:
		var paths []string
		for _, m := range op.GetExec().Mounts {
			if int(m.Input) == i {
				paths = append(paths, m.Selector)
			}
		}
		return paths
	}
	return []string{"/"}
}
