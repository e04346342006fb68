package keys

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// Step holds the components of a step's key: its canonical op, and its inputs. The engine combines Own with the ids of
// Whole inputs and with ids or digests of Reads.
type Step struct {
	Own   Parts
	Whole []Whole // the parent first
	Reads []Read  // the selections of files that the step reads
}

// Whole is an input whose entire content is part of the key. Input is the number of an op input; it may be one that is
// scratch.
type Whole struct {
	Name  string // of the key part
	Input int
}

// Read is an input of which only the selected files count.
type Read struct {
	Name      string // of the key part, after PartContent
	What      string // the files as the Dockerfile names them, for errors
	Input     int
	Selection tree.Selection
}

// Everything returns the selection of all files of an input.
func Everything() tree.Selection { return tree.Selection{Src: "/", DirContents: true} }

// StepOf returns the components of a step's key: of an exec op, a file op or a test. It returns nil for other steps,
// which have no entry, and an error for an op that cannot be executed.
func StepOf(s *planner.Step) (*Step, error) {
	switch {
	case s.Test != nil:
		return ofTest(s)
	case s.Op.GetExec() != nil:
		return ofExec(s)
	case s.Op.GetFile() != nil:
		return ofFile(s)
	}
	return nil, nil
}

func ofExec(s *planner.Step) (*Step, error) {
	if err := checkExec(s.Op); err != nil {
		return nil, err
	}
	k := &Step{Own: execParts(s)}
	for _, m := range s.Op.GetExec().GetMounts() {
		in := int(m.GetInput())
		switch {
		case m.GetDest() == pb.RootMount:
			k.Whole = append([]Whole{{"parent", in}}, k.Whole...)
		case m.GetMountType() != pb.MountType_BIND && m.GetMountType() != pb.MountType_CACHE,
			InputOf(s, in).Step == nil:
		case readsMount(s, m) || m.GetMountType() == pb.MountType_CACHE:
			k.Reads = append(k.Reads, Read{"mount " + m.GetDest(), m.GetSelector(), in, MountSelection(m)})
		default:
			// The content of such a mount becomes an output, so all of its input counts.
			k.Whole = append(k.Whole, Whole{"mount " + m.GetDest(), in})
		}
	}
	return k, nil
}

// readsMount reports whether a step only reads the files that a bind mount selects: they are in its key by content. A
// mount that becomes an output counts with all of its input.
func readsMount(s *planner.Step, m *pb.Mount) bool {
	return m.GetMountType() == pb.MountType_BIND && InputOf(s, int(m.GetInput())).Step != nil &&
		(m.GetOutput() == int64(pb.SkipOutput) || m.GetReadonly())
}

// MountSelection returns what a mount reads from its input. A bind mount has its own name; a file that fills a cache
// mount keeps the name that it has.
func MountSelection(m *pb.Mount) tree.Selection {
	src := m.GetSelector()
	if src == "" {
		src = "/"
	}
	return tree.Selection{
		Src: src, Follow: true, DirContents: true, Renamed: m.GetMountType() == pb.MountType_BIND,
	}
}

func ofFile(s *planner.Step) (*Step, error) {
	shape, err := shapeOf(s.Op)
	if err != nil {
		return nil, err
	}
	k := &Step{Own: shape.canonical, Whole: []Whole{{"parent", shape.parent}}}
	for i, r := range shape.reads {
		// The name must not say where the files are from, or equal files from two places would give two keys.
		k.Reads = append(k.Reads, Read{"copy " + strconv.Itoa(i+1), r.what, r.input, r.sel})
	}
	return k, nil
}

func ofTest(s *planner.Step) (k *Step, err error) {
	if len(s.Test.Command) > 0 {
		if k, err = ofExec(s); err != nil {
			return nil, err
		}
	} else {
		k = &Step{Own: NewParts("test")}
		if len(s.Inputs) > 0 {
			k.Whole = []Whole{{"image", 0}}
		}
	}
	test := *s.Test
	test.Name, test.At = "", config.Range{} // they do not change the result
	raw, err := json.Marshal(test)
	if err != nil {
		return nil, err
	}
	k.Own.Hash(PartTest, raw, "")
	return k, nil
}

// InputOf returns input i of a step; scratch when the step has no such input, as with pb.Empty.
func InputOf(s *planner.Step, i int) planner.Edge {
	if i < 0 || i >= len(s.Inputs) {
		return planner.Edge{}
	}
	return s.Inputs[i]
}

// SelectionName returns the name under which the digest of a selection from an output is kept. Only equal selections
// have equal names.
func SelectionName(output int, sel tree.Selection) string {
	return digest.FromString(fmt.Sprintf("%d %q %t %t %t %t %t %q %q %q", output, sel.Src, sel.Follow, sel.DirContents,
		sel.Renamed, sel.Wildcard, sel.AllowEmpty, sel.Include, sel.Exclude, sel.Required)).String()
}
