package embedded

import (
	"context"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// pasts are what is remembered of earlier runs of steps, by place: read once, and added to when the build ends.
type pasts struct {
	mu    sync.Mutex
	known map[digest.Digest][]cache.PastRun
	added map[digest.Digest][]cache.PastRun
}

// place names what stays when a step changes: its stage, platform and kind.
func (n *node) place() digest.Digest {
	return cache.KeyOf([]cache.Input{
		{Name: "stage", Digest: n.step.StableStage()}, {Name: "platform", Digest: platformString(n.step.Op.GetPlatform())}, {Name: "kind", Digest: n.step.Kind()},
	})
}

// past are the earlier runs at the step's place, the oldest first.
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

// maxCompared is how many runs of an instruction are looked into.
const maxCompared = 64

// nearest is the earlier run that is most like this one: of the same instruction, or of the one that had its number in the
// stage last; run in the same directory if any was; with the fewest parts that differ; the newest of several such. It is one of the
// newest maxCompared.
func (k *keyed) nearest(now parts) (cache.PastRun, bool) {
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
		here, differs := r.Dir == k.n.b.opts.Dir, differing(r.Inputs, now)
		if !found || here && !bestHere || here == bestHere && differs < bestDiffers {
			best, bestHere, bestDiffers, found = r, here, differs, true
		}
	}
	if !found {
		return k.importedRun()
	}
	return best, true
}

// importedRun is the newest run of the same definition somewhere else, of which a cache that was imported tells.
func (k *keyed) importedRun() (cache.PastRun, bool) {
	e, _, err := k.n.b.entry(latestKey(k.n.step.Digest))
	if err != nil || e == nil || len(e.Inputs) == 0 {
		return cache.PastRun{}, false
	}
	text, _ := k.n.step.Instruction()
	return cache.PastRun{Instruction: text, Inputs: e.Inputs}, true
}

// replaced is the instruction that had the step's number in the stage last, "" when it had it itself. One that stands
// elsewhere in the stage now was not changed into this one.
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

// differing counts the parts of one list that the other has not with the same value.
func differing(old, now []cache.Input) int {
	type part struct{ name, digest string }
	have := map[part]int{}
	for _, p := range old {
		have[part{p.Name, p.Digest}]++
	}
	n := len(old)
	for _, p := range now {
		if have[part{p.Name, p.Digest}]--; have[part{p.Name, p.Digest}] >= 0 {
			n--
		} else {
			n++
		}
	}
	return n
}

// note keeps what the step is made of for later explanations.
func (k *keyed) note(inputs parts) {
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

// base is the image at the bottom of what the step stands on, "" where there is none.
func (k *keyed) base() string {
	if len(k.whole) == 0 {
		return ""
	}
	return k.whole[0].in.base()
}

// remember keeps what the step was made of, and which files it read, for later explanations.
func (k *keyed) remember(ctx context.Context) error {
	k.note(k.final)
	for _, r := range k.reads {
		if r.in.scratch() || r.in.image() {
			continue // a base is told by its reference
		}
		d, err := r.in.selection(ctx, r.sel)
		if err != nil {
			return err
		}
		err = k.n.b.store.PutFileList(d, func() ([]byte, error) {
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

// savePasts keeps what was remembered. It is advice: a build does not fail for it.
func (b *build) savePasts() {
	b.pasts.mu.Lock()
	defer b.pasts.mu.Unlock()
	for place, runs := range b.pasts.added {
		_ = b.store.AddPastRuns(place, runs)
	}
}

// listed is the list of files of a content digest, nil when it is not known.
func (b *build) listed(d digest.Digest) (tree.Listing, error) {
	if d.Validate() != nil {
		return nil, nil
	}
	raw := b.store.FileList(d)
	if raw == nil {
		return nil, nil
	}
	return tree.DecodeListing(raw)
}

// listing is the list of the files that a step reads, whose content digest is d.
func (k *keyed) listing(ctx context.Context, r readInput, d digest.Digest) (tree.Listing, error) {
	if list, err := k.n.b.listed(d); list != nil || err != nil {
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

// keys are those of a step that has any.
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

// because sets why the step runs, or would.
func (n *node) because(causes ...executor.Cause) {
	n.result.Causes = causes
	n.result.Reason = executor.ReasonOf(causes, n.b.nameOf)
}

// nameOf is the display name of a step of the graph.
func (b *build) nameOf(step digest.Digest) string { return b.stepNames()[step] }

// textsOf are the instructions of a graph by their place.
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

// stepNamesOf are the display names of the steps of a graph.
func stepNamesOf(g *planner.Graph) map[digest.Digest]string {
	names := make(map[digest.Digest]string, len(g.Steps))
	for _, s := range g.Steps {
		names[s.Digest] = s.Name
	}
	return names
}
