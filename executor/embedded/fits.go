package embedded

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor/cache"
)

// fits returns an error if an entry cannot be a result of the step: each output is made of certain inputs and at most
// one layer of the step's own, in an order that follows from the op. Entries are data from elsewhere, or of an earlier
// version; one that does not fit is a miss.
func (n *node) fits(e *cache.Entry) error {
	switch op := n.op.(type) {
	case *execStep:
		return sameShape(e.Outputs, op.shape())
	case *testStep:
		return sameShape(e.Outputs, nil)
	case *fileStep:
		return sameShape(e.Outputs, []cache.Output{op.output(emptyLayer)})
	case *linkMerge:
		return op.fits(e)
	case *httpStep, *gitStep:
		return n.likeSource(e)
	}
	return errors.New("the step has no entries")
}

// likeSource is fits for a source: one layer.
func (n *node) likeSource(e *cache.Entry) error {
	return sameShape(e.Outputs, []cache.Output{{Parts: []cache.Part{{Layer: emptyLayer}}}})
}

// likeFile is fits for the result of a file operation on any parent: only its layer is used.
func (n *node) likeFile(e *cache.Entry) error {
	if len(e.Outputs) != 1 {
		return fmt.Errorf("it has %d outputs, not one", len(e.Outputs))
	}
	layers := 0
	for _, p := range e.Outputs[0].Parts {
		if p.Layer != "" {
			layers++
		}
	}
	if layers != 1 {
		return fmt.Errorf("it has %d layers, not one", layers)
	}
	return nil
}

// shape returns the outputs of a RUN, with emptyLayer for any layer. It mirrors execRoot.commit.
func (x *execStep) shape() []cache.Output {
	var outputs []cache.Output
	for _, m := range x.exec.GetMounts() {
		if m.GetOutput() < 0 || m.GetMountType() != pb.MountType_BIND {
			continue
		}
		in := x.n.input(int(m.GetInput()))
		var parts []cache.Part
		switch {
		case in.scratch():
		case in.local():
			parts = append(parts, cache.Part{Layer: emptyLayer})
		default:
			parts = append(parts, cache.Part{Input: int(m.GetInput()), Index: in.index})
		}
		if !m.GetReadonly() {
			parts = append(parts, cache.Part{Layer: emptyLayer})
		}
		for len(outputs) <= int(m.GetOutput()) {
			outputs = append(outputs, cache.Output{})
		}
		outputs[m.GetOutput()] = cache.Output{Parts: parts}
	}
	return outputs
}

// sameShape compares outputs except for the ids of layers.
func sameShape(got, want []cache.Output) error {
	if len(got) != len(want) {
		return fmt.Errorf("it has %d outputs, not %d", len(got), len(want))
	}
	for i := range got {
		if len(got[i].Parts) != len(want[i].Parts) {
			return fmt.Errorf("its output %d has %d parts, not %d", i, len(got[i].Parts), len(want[i].Parts))
		}
		for k, p := range got[i].Parts {
			w := want[i].Parts[k]
			switch {
			case (p.Layer == "") != (w.Layer == ""):
				return fmt.Errorf("part %d of its output %d is of another kind", k, i)
			case p.Layer == "" && p != w:
				return fmt.Errorf("its output %d uses output %d of input %d", i, p.Index, p.Input)
			}
		}
	}
	return nil
}
