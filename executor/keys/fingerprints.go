package keys

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// Fingerprints computes the fingerprints of several graphs. It reads only once what is the same in all of them. The
// files of build contexts must not change meanwhile. It is for one goroutine.
type Fingerprints struct {
	contexts *Contexts
	// read holds the digests of selections from contexts that no patch touches.
	read map[string]digest.Digest
}

// NewFingerprints returns fingerprints of contexts whose stat indexes are stored in statDir.
func NewFingerprints(statDir string) *Fingerprints {
	return &Fingerprints{contexts: NewContexts(statDir), read: map[string]digest.Digest{}}
}

// Steps returns, for each step of a graph in its order, a digest of everything that its result can depend on: its
// canonical op, whether it runs at every build, the content that it reads from build contexts, and the fingerprints
// of its inputs. Steps of two graphs with one fingerprint have one result, as far as their commands and the servers
// that they fetch from give one. Nothing is run or fetched. patch overrides files of the contexts; it may be nil.
func (f *Fingerprints) Steps(ctx context.Context, g *planner.Graph, patch tree.Patch) ([]digest.Digest, error) {
	r := &fingerprinting{
		Fingerprints: f, patch: patch, locals: map[*planner.Step]*Context{}, steps: map[*planner.Step]digest.Digest{},
	}
	defer r.close()
	steps := make([]*Step, len(g.Steps))
	for i, s := range g.Steps {
		var err error
		if steps[i], err = StepOf(s); err != nil {
			return nil, At(s, err)
		}
		if IsLocal(s) {
			if r.locals[s], err = f.contexts.Open(g, s.Op.GetSource(), patch); err != nil {
				return nil, At(s, err)
			}
		}
	}
	all := make([]digest.Digest, len(g.Steps))
	for i, s := range g.Steps {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var err error
		if all[i], err = r.step(ctx, s, steps[i]); err != nil {
			return nil, failed(s, err)
		}
		r.steps[s] = all[i]
	}
	return all, nil
}

// Same maps the steps of a graph to the first step with the same fingerprint. The planner cannot merge such steps: only
// the content of the files that they read makes them equal.
func (f *Fingerprints) Same(ctx context.Context, g *planner.Graph) (map[*planner.Step]*planner.Step, error) {
	all, err := f.Steps(ctx, g, nil)
	if err != nil {
		return nil, err
	}
	first, same := map[digest.Digest]*planner.Step{}, map[*planner.Step]*planner.Step{}
	for i, s := range g.Steps {
		if earlier := first[all[i]]; earlier != nil {
			same[s] = earlier
			continue
		}
		first[all[i]] = s
	}
	return same, nil
}

// fingerprinting computes the fingerprints of one graph.
type fingerprinting struct {
	*Fingerprints
	patch  tree.Patch
	locals map[*planner.Step]*Context
	steps  map[*planner.Step]digest.Digest // of the steps so far
}

func (r *fingerprinting) close() {
	r.contexts.Save()
	for _, l := range r.locals {
		l.Close()
	}
}

// step returns the fingerprint of one step. k is nil for a step without keys of its own.
func (r *fingerprinting) step(ctx context.Context, s *planner.Step, k *Step) (digest.Digest, error) {
	if k == nil {
		p := Parts{{Name: "op", Digest: s.Digest.String()}}
		for i, in := range s.Inputs {
			d, err := r.input(ctx, in, Everything())
			if err != nil {
				return "", err
			}
			p = p.With(Parts{{Name: "input " + strconv.Itoa(i), Digest: d}})
		}
		return p.Key(), nil
	}
	p := k.Own
	if s.NoCache {
		p = p.With(Parts{{Name: "no-cache"}})
	}
	for _, w := range k.Whole {
		d, err := r.input(ctx, InputOf(s, w.Input), Everything())
		if err != nil {
			return "", fmt.Errorf("%s: %w", w.Name, err)
		}
		p = p.With(Parts{{Name: w.Name, Digest: d}})
	}
	for _, read := range k.Reads {
		in := InputOf(s, read.Input)
		d, err := r.input(ctx, in, read.Selection)
		if err != nil {
			dir := ""
			if l := r.locals[in.Step]; l != nil {
				dir = l.Name
			}
			return "", ReadError(s, read.What, in, dir, err)
		}
		p = p.With(Parts{{Name: read.Name, Digest: d}})
	}
	return p.Key(), nil
}

// input returns the fingerprint of the step behind an input with what is selected from it, or the content of what is
// selected from a build context.
func (r *fingerprinting) input(ctx context.Context, in planner.Edge, sel tree.Selection) (string, error) {
	if in.Step == nil {
		return "", nil
	}
	if l := r.locals[in.Step]; l != nil {
		d, err := r.selection(ctx, l, sel)
		return d.String(), err
	}
	d, ok := r.steps[in.Step]
	if !ok {
		return "", fmt.Errorf("its input %q is not before it in the graph", in.Step.Name)
	}
	return d.String() + " " + SelectionName(in.Index, sel), nil
}

// selection returns the content digest of a selection of a context's files.
func (r *fingerprinting) selection(ctx context.Context, l *Context, sel tree.Selection) (digest.Digest, error) {
	if touches(r.patch, l.Dir, sel) {
		return l.Digest(ctx, sel)
	}
	name := fmt.Sprintf("%q %q %s", l.Dir, l.excludes, SelectionName(0, sel))
	if d, ok := r.read[name]; ok {
		return d, nil
	}
	d, err := l.Digest(ctx, sel)
	if err == nil {
		r.read[name] = d
	}
	return d, err
}

// touches reports whether a patch may change what a selection names. It reports true for a path through links.
func touches(patch tree.Patch, dir string, sel tree.Selection) bool {
	if patch == nil {
		return false
	}
	at := filepath.Join(dir, filepath.Join("/", sel.Fixed()))
	real, err := filepath.EvalSymlinks(at)
	return err != nil || real != at || patch.Touches(real)
}
