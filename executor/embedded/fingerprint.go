package embedded

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// Fingerprints take those of several graphs, of which they read what is the same in all only once.
type Fingerprints struct {
	engine *Engine
	stats  *statIndexes
	mu     sync.Mutex
	// read are the digests of what was selected of contexts where no patch touches them.
	read map[string]digest.Digest
}

// Fingerprints begins to take fingerprints. What is in contexts must not change meanwhile.
func (e *Engine) Fingerprints() *Fingerprints {
	return &Fingerprints{engine: e, stats: &statIndexes{dir: e.store.StatIndexDir()}, read: map[string]digest.Digest{}}
}

// Of gives each step of a graph, in its order, a digest of all that its result can depend on: its canonical op, whether it has to run at every build,
// the content of what it reads from build contexts, and the fingerprints of its inputs. Steps of two graphs that have one
// fingerprint have one result, as far as their commands and what they fetch have. Nothing is run or fetched. patch is what contexts
// have otherwise than the disk; it may be nil.
func (f *Fingerprints) Of(ctx context.Context, g *planner.Graph, opts executor.Options, patch tree.Patch) ([]digest.Digest, error) {
	opts.Events = nil
	b, err := f.engine.newBuild(g, opts)
	if err != nil {
		return nil, err
	}
	b.dry, b.stats, b.patched = true, f.stats, &patched{patch, f}
	defer b.close()
	all := make([]digest.Digest, len(b.nodes))
	for i, n := range b.nodes {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if all[i], err = n.fingerprint(ctx, all); err != nil {
			return nil, n.failed(err)
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
	if n.step.NoCache {
		p = p.with(parts{{Name: "no-cache"}})
	}
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

// patched is how contexts are read for fingerprints: with a patch, which may be nil, and what is the same in all graphs once.
type patched struct {
	tree.Patch
	shared *Fingerprints
}

// digest is that of a selection of a context's files. take computes it.
func (p *patched) digest(l *localSource, sel tree.Selection, take func() (digest.Digest, error)) (digest.Digest, error) {
	if p.touches(l.dir, sel) {
		return take()
	}
	name := fmt.Sprintf("%q %q %s", l.dir, l.excludes, selectionName(0, sel))
	p.shared.mu.Lock()
	d, ok := p.shared.read[name]
	p.shared.mu.Unlock()
	if ok {
		return d, nil
	}
	d, err := take()
	if err == nil {
		p.shared.mu.Lock()
		p.shared.read[name] = d
		p.shared.mu.Unlock()
	}
	return d, err
}

// touches says whether what a selection names may be otherwise. A path through links counts as touched.
func (p *patched) touches(dir string, sel tree.Selection) bool {
	if p.Patch == nil {
		return false
	}
	at := filepath.Join(dir, filepath.Join("/", sel.Fixed()))
	real, err := filepath.EvalSymlinks(at)
	return err != nil || real != at || p.Touches(real)
}
