package embedded

import (
	"context"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// pasts are the recorded earlier runs of steps, by place: read once, added to when the build ends.
type pasts struct {
	mu    sync.Mutex
	known map[digest.Digest][]cache.PastRun
	added map[digest.Digest][]cache.PastRun
}

// place identifies a step across changes of its text: by stage, platform and kind.
func (n *node) place() digest.Digest {
	return key.Of([]key.Part{
		{Name: "stage", Digest: n.step.StableStage()},
		{Name: "platform", Digest: keys.Platform(n.step.Op.GetPlatform())},
		{Name: "kind", Digest: n.step.Kind()},
	})
}

// past returns the earlier runs at the step's place, the oldest first.
func (n *node) past() []cache.PastRun {
	p, place := &n.b.pasts, n.place()
	p.mu.Lock()
	defer p.mu.Unlock()
	runs, ok := p.known[place]
	if !ok {
		runs = n.b.store.PastRuns(place)
		if p.known == nil {
			p.known = map[digest.Digest][]cache.PastRun{}
		}
		p.known[place] = runs
	}
	return runs
}

// maxCompared bounds the runs of an instruction that are compared.
const maxCompared = 64

// nearest returns the earlier run that is most similar to this one. Candidates are the newest maxCompared runs of the
// same instruction, or of the one that last had its number in the stage. A run in the same directory is preferred;
// then the one with the fewest different parts; then the newest.
func (k *keyed) nearest(now keys.Parts) (cache.PastRun, bool) {
	text, number := k.n.step.Instruction()
	past := k.n.past()
	replaced := k.n.replaced(past)
	best, found := cache.PastRun{}, false
	bestHere, bestDiffers, compared := false, 0, 0
	for _, r := range slices.Backward(past) {
		if r.Instruction != text && (r.Number != number || r.Instruction != replaced) {
			continue
		}
		if r.Load(); len(r.Inputs) == 0 {
			continue
		}
		if compared++; compared > maxCompared {
			break
		}
		here, differs := r.Dir == k.n.b.opts.Dir, keys.Distance(r.Inputs, now)
		if !found || here && !bestHere || here == bestHere && differs < bestDiffers {
			best, bestHere, bestDiffers, found = r, here, differs, true
		}
	}
	if !found {
		return k.importedRun()
	}
	return best, true
}

// importedRun returns the newest run of the same definition that a remote cache records.
func (k *keyed) importedRun() (cache.PastRun, bool) {
	e := k.n.b.imports.latest(k.n.step.Digest)
	if e == nil || len(e.Inputs) == 0 {
		return cache.PastRun{}, false
	}
	text, _ := k.n.step.Instruction()
	return cache.PastRun{Instruction: text, Inputs: e.Inputs}, true
}

// replaced returns the instruction that last had the step's number in the stage, "" if that was this one. An
// instruction that is now elsewhere in the stage was moved, not changed into this one.
func (n *node) replaced(past []cache.PastRun) string {
	text, number := n.step.Instruction()
	for _, r := range slices.Backward(past) {
		if r.Number != number || number == "" {
			continue
		}
		if r.Instruction == text || n.b.texts()[n.place()][r.Instruction] {
			return ""
		}
		return r.Instruction
	}
	return ""
}

// note records the parts of the step's key for later explanations.
func (k *keyed) note(inputs keys.Parts) {
	text, number := k.n.step.Instruction()
	p, place := &k.n.b.pasts, k.n.place()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.added == nil {
		p.added = map[digest.Digest][]cache.PastRun{}
	}
	p.added[place] = append(p.added[place], cache.PastRun{
		Number: number, Instruction: text, Dir: k.n.b.opts.Dir, Base: k.base(), Inputs: inputs, At: time.Now().UTC(),
	})
}

// base returns the image at the bottom of the step's parent, "" if there is none.
func (k *keyed) base() string {
	if len(k.whole) == 0 {
		return ""
	}
	return k.whole[0].in.base()
}

// remember records the parts of the step's key, and the files that it read, for later explanations.
func (k *keyed) remember(ctx context.Context, parts keys.Parts) error {
	k.note(parts)
	for _, r := range k.reads {
		if r.in.scratch() || r.in.image() {
			continue // a base is identified by its reference
		}
		d, err := r.in.selection(ctx, r.sel)
		if err != nil {
			return err
		}
		err = k.n.b.store.PutFileList(listName(d, r.sel), func() ([]byte, error) {
			list, err := k.listing(ctx, r, d)
			if err != nil || list == nil {
				return nil, err
			}
			return list.Encode()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// savePasts stores the recorded runs. Only explanations depend on them, so errors are ignored.
func (b *build) savePasts() {
	b.pasts.mu.Lock()
	defer b.pasts.mu.Unlock()
	for place, runs := range b.pasts.added {
		_ = b.store.AddPastRuns(place, runs)
	}
}

// listName returns the name under which the list of a selection's files is stored; d is their content digest. Equal
// files in two places have one digest and two lists, because a list has their paths.
func listName(d digest.Digest, sel tree.Selection) digest.Digest {
	return key.Of([]key.Part{{Name: "files", Digest: d.String()}, {Name: "of", Digest: keys.SelectionName(0, sel)}})
}

// listed returns a list of files by its name, nil if it is unknown.
func (b *build) listed(name digest.Digest) (tree.Listing, error) {
	raw := b.store.FileList(name)
	if raw == nil {
		return nil, nil
	}
	return tree.DecodeListing(raw)
}

// listing returns the list of the files that a step reads; d is their content digest.
func (k *keyed) listing(ctx context.Context, r readInput, d digest.Digest) (tree.Listing, error) {
	if list, err := k.n.b.listed(listName(d, r.sel)); list != nil || err != nil {
		return list, err
	}
	var list tree.Listing
	err := r.in.read(ctx, func(files tree.FS) error {
		var err error
		list, err = tree.List(ctx, files, r.sel)
		return err
	})
	return list, err
}

// keys returns the keys of a step that has some, else nil.
func (n *node) keys() *keyed {
	switch op := n.op.(type) {
	case *execStep:
		return &op.keyed
	case *fileStep:
		return &op.keyed
	case *testStep:
		return &op.keyed
	}
	return nil
}

// because sets the causes of the step's run, or of its expected run.
func (n *node) because(causes ...executor.Cause) {
	n.result.Causes = causes
	n.result.Reason = executor.ReasonOf(causes, n.b.nameOf)
}

// nameOf returns the display name of a step of the graph.
func (b *build) nameOf(step digest.Digest) string { return b.stepNames()[step] }

// textsOf returns the instructions of a graph by place.
func (b *build) textsOf() map[digest.Digest]map[string]bool {
	all := map[digest.Digest]map[string]bool{}
	for _, n := range b.nodes {
		place := n.place()
		if all[place] == nil {
			all[place] = map[string]bool{}
		}
		text, _ := n.step.Instruction()
		all[place][text] = true
	}
	return all
}

// stepNamesOf returns the display names of a graph's steps.
func stepNamesOf(g *planner.Graph) map[digest.Digest]string {
	names := make(map[digest.Digest]string, len(g.Steps))
	for _, s := range g.Steps {
		names[s.Digest] = s.Name
	}
	return names
}
