package embedded

import (
	"context"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/keys"
)

// virtual is a step whose outputs follow from its inputs alone. It runs nothing and has no cache entry. If an input is
// a build context, its lookup makes a snapshot of that, which copies the files.
type virtual struct {
	n *node
	// own is the canonical op, which is part of the keys of its users.
	own keys.Parts
	// outputs computes the outputs from the chains of the inputs.
	outputs func(ctx context.Context) ([]*chain, error)
}

// lookup always finds the result. A virtual step counts as run if one of its inputs ran.
func (v *virtual) lookup(ctx context.Context) (bool, error) {
	id, err := v.key(ctx, input.id)
	if err != nil {
		return false, err
	}
	portable, err := v.key(ctx, input.portableID)
	if err != nil {
		return false, err
	}
	outputs, err := v.outputs(ctx)
	if err != nil {
		return false, err
	}
	v.n.id, v.n.portable, v.n.outputs, v.n.result.Key, v.n.by = id, portable, outputs, id, v.n.inputTaint()
	v.passStatus()
	return true, nil
}

// key returns the key of the step from the ids of its inputs.
func (v *virtual) key(ctx context.Context, id idOf) (digest.Digest, error) {
	p := v.own
	for i, in := range v.n.inputs {
		name, err := id(in, ctx)
		if err != nil {
			return "", err
		}
		p = p.With(keys.Parts{{Name: fmt.Sprintf("input %d", i), Digest: name}})
	}
	return p.Key(), nil
}

func (v *virtual) prepare(context.Context) (bool, func(), error) { return true, nil, nil }
func (v *virtual) run(context.Context) error                     { return nil }

// newMerge stacks the layers of all inputs; nothing is copied.
func newMerge(n *node) (operation, error) {
	v := &virtual{n: n, own: keys.NewParts("merge")}
	v.outputs = func(ctx context.Context) ([]*chain, error) {
		var c *chain
		for _, in := range n.step.Op.GetMerge().GetInputs() {
			upper, err := n.input(int(in.GetInput())).chain(ctx)
			if err != nil {
				return nil, err
			}
			c = c.concat(upper)
		}
		return []*chain{c}, nil
	}
	if links := n.linkInputs(); len(links) > 0 {
		return newLinkMerge(*v, links), nil
	}
	return v, nil
}

// newPassthrough returns inputs as outputs.
func newPassthrough(n *node) (operation, error) {
	op := n.step.Op.GetPassthrough()
	v := &virtual{n: n, own: keys.NewParts("passthrough")}
	for _, k := range op.GetOutputs() {
		if k < 0 || k >= int64(len(n.inputs)) {
			return nil, fmt.Errorf("the step uses input %d of %d", k, len(n.inputs))
		}
		v.own.Add("output", fmt.Sprint(k))
	}
	v.outputs = func(ctx context.Context) ([]*chain, error) {
		outputs := make([]*chain, len(op.GetOutputs()))
		for i, k := range op.GetOutputs() {
			c, err := n.inputs[k].chain(ctx)
			if err != nil {
				return nil, err
			}
			outputs[i] = c
		}
		return outputs, nil
	}
	return v, nil
}

// newDiff returns the layers that upper adds to lower. Upper must extend lower.
func newDiff(n *node) (operation, error) {
	op := n.step.Op.GetDiff()
	if op.GetLower() == nil || op.GetUpper() == nil {
		return nil, fmt.Errorf("the step needs two inputs")
	}
	v := &virtual{n: n, own: keys.NewParts("diff")}
	v.outputs = func(ctx context.Context) ([]*chain, error) {
		lower, err := n.input(int(op.GetLower().GetInput())).chain(ctx)
		if err != nil {
			return nil, err
		}
		upper, err := n.input(int(op.GetUpper().GetInput())).chain(ctx)
		if err != nil {
			return nil, err
		}
		rest, ok := upper.above(lower)
		if !ok {
			return nil, &UnsupportedError{
				What: "differences of unrelated file systems", Instead: "copy the files that differ",
			}
		}
		return []*chain{rest}, nil
	}
	return v, nil
}
