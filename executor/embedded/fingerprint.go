package embedded

import (
	"context"
	"fmt"
	"strconv"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/embedded/tree"
	"github.com/bakebuild/bake/planner"
)

// Fingerprints gives each step of a graph, in its order, a digest of all that its result can depend on: its canonical op,
// the content of what it reads from build contexts, and the fingerprints of its inputs. Steps of two graphs that have one
// fingerprint have one result, as far as their commands and what they fetch have. Nothing is run or fetched.
func (e *Engine) Fingerprints(ctx context.Context, g *planner.Graph, opts executor.Options) ([]digest.Digest, error) {
	opts.Events = nil
	b, err := e.newBuild(g, opts)
	if err != nil {
		return nil, err
	}
	b.dry = true
	defer b.close()
	all := make([]digest.Digest, len(b.nodes))
	for i, n := range b.nodes {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if all[i], err = n.fingerprint(ctx, all); err != nil {
			return nil, n.wrap(err)
		}
	}
	return all, nil
}

// fingerprint is the digest of one step; earlier are those of the steps before it.
func (n *node) fingerprint(ctx context.Context, earlier []digest.Digest) (digest.Digest, error) {
	var k *keyed
	switch op := n.op.(type) {
	case *execStep:
		k = &op.keyed
	case *testStep:
		k = &op.keyed
	case *fileStep:
		k = &op.keyed
	default:
		p := parts{{Name: "op", Digest: n.step.Digest.String()}}
		for i, in := range n.inputs {
			d, err := in.fingerprint(ctx, earlier, tree.Selection{Src: "/", DirContents: true})
			if err != nil {
				return "", err
			}
			p = p.with(parts{{Name: "input " + strconv.Itoa(i), Digest: d}})
		}
		return p.key(), nil
	}
	p := k.own
	for _, w := range k.whole {
		d, err := w.in.fingerprint(ctx, earlier, tree.Selection{Src: "/", DirContents: true})
		if err != nil {
			return "", fmt.Errorf("%s: %w", w.name, err)
		}
		p = p.with(parts{{Name: w.name, Digest: d}})
	}
	for _, r := range k.reads {
		d, err := r.in.fingerprint(ctx, earlier, r.sel)
		if err != nil {
			return "", n.sourceError(r, err)
		}
		p = p.with(parts{{Name: r.name, Digest: d}})
	}
	return p.key(), nil
}

// fingerprint is that of the step behind an input, or the content of what is selected of a build context.
func (in input) fingerprint(ctx context.Context, earlier []digest.Digest, sel tree.Selection) (string, error) {
	switch {
	case in.scratch():
		return "", nil
	case in.local():
		d, err := in.selection(ctx, sel)
		return d.String(), err
	}
	return earlier[in.node.index].String() + " " + strconv.Itoa(in.index), nil
}
