package embedded

import (
	"context"
	"fmt"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/executor/tree"
)

// keyed is the part that file and exec operations share: their keys, and finding and storing their entries.
//
// A step has up to three keys. The quick key holds the ids of the entries that served its inputs, and content digests
// of what it reads from build contexts: it is known without opening a layer. The final key holds content digests in
// place of the ids of the inputs that the step only reads from, so that a rebuilt input with the same files is a hit;
// entries are stored under it, and the quick key becomes an alias. The group key of a file operation is the final key
// without the parent: operations with one group key make the same layer wherever their look-ups get the same answers.
type keyed struct {
	n *node
	// own is the canonical op.
	own parts
	// whole are the inputs of which everything counts, first of all the parent.
	whole []wholeInput
	// reads are the selections that the step reads.
	reads []readInput

	quickKey, finalKey digest.Digest
	final              parts
	known              parts // those of the key that was computed last
	// ages are those of the build contexts that the step reads, when it was keyed.
	ages []contextAge
	// hit is what the cache has, in a build that compares it.
	hit *cache.Entry
}

// contextAge is how often a build context had been read again at some time.
type contextAge struct {
	local *localSource
	age   int
}

// wholeInput is an input that enters the keys with its id.
type wholeInput struct {
	name string
	in   input
}

// readInput is an input of which only the selected files enter the final key.
type readInput struct {
	name string // of the key part
	what string // the files as the Dockerfile names them, for errors
	in   input
	sel  tree.Selection
}

// quick computes the quick parts.
func (k *keyed) quick(ctx context.Context) (parts, error) {
	p, err := k.withWhole(ctx, k.own)
	if err != nil {
		return nil, err
	}
	return k.withReads(p, func(r readInput) (string, string, error) {
		if r.in.local() || r.in.scratch() {
			d, err := r.in.selection(ctx, r.sel)
			return partContent, d.String(), err
		}
		id, err := r.in.id(ctx)
		return "step of ", id, err
	})
}

// withContent adds the content digests of all reads to p.
func (k *keyed) withContent(ctx context.Context, p parts) (parts, error) {
	return k.withReads(p, func(r readInput) (string, string, error) {
		d, err := r.in.selection(ctx, r.sel)
		return partContent, d.String(), err
	})
}

func (k *keyed) withWhole(ctx context.Context, p parts) (parts, error) {
	for _, w := range k.whole {
		id, err := w.in.id(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		p = p.with(parts{{Name: w.name, Digest: id, Value: w.in.shown()}})
	}
	return p, nil
}

func (k *keyed) withReads(p parts, value func(readInput) (prefix, value string, err error)) (parts, error) {
	for _, r := range k.reads {
		prefix, v, err := value(r)
		if err != nil {
			return nil, k.n.sourceError(r, err)
		}
		p = p.with(parts{{Name: prefix + r.name, Digest: v, Value: r.in.shown()}})
	}
	return p, nil
}

// lookup computes the quick key and looks it up.
func (k *keyed) lookup(ctx context.Context) (bool, error) {
	k.ages = k.ages[:0]
	for _, in := range k.n.inputs {
		if in.local() {
			k.ages = append(k.ages, contextAge{in.node.local, in.node.local.ageNow()})
		}
	}
	p, err := k.quick(ctx)
	if err != nil {
		return false, err
	}
	k.quickKey, k.known = p.key(), p
	k.n.result.Key = k.quickKey
	return k.find(k.quickKey)
}

// find serves the step from the entry under key, if there is one that may be used.
func (k *keyed) find(key digest.Digest) (bool, error) {
	if k.n.forced() && !k.n.b.storedNow(key) {
		return false, nil
	}
	e, from, err := k.n.b.entry(key)
	if err != nil || e == nil || k.putAside(e) {
		return false, err
	}
	if from != "" {
		k.n.result.Reason = "found in the cache " + from
		if err := k.n.b.adopt(e, key); err != nil {
			return false, err
		}
	}
	if !k.n.b.dry && k.n.b.storedNow(key) && (key != k.quickKey || !k.readsSteps()) {
		k.note(k.known) // another place has just made it: this one has it from now on
	}
	return true, k.n.serve(e)
}

// readsSteps says whether the quick key has ids of steps in place of what is read from them.
func (k *keyed) readsSteps() bool {
	return slices.ContainsFunc(k.reads, func(r readInput) bool { return !r.in.local() && !r.in.scratch() })
}

// finalize computes the final key and looks it up, which may read content of inputs.
func (k *keyed) finalize(ctx context.Context) (bool, error) {
	p, err := k.withWhole(ctx, k.own)
	if err != nil {
		return false, err
	}
	if k.final, err = k.withContent(ctx, p); err != nil {
		return false, err
	}
	if err := k.overtaken(); err != nil { // else the quick key would lead to other files than it was made of
		return false, err
	}
	k.finalKey, k.known = k.final.key(), k.final
	k.n.result.Key = k.finalKey
	if k.finalKey == k.quickKey {
		return false, nil
	}
	return k.findFinal()
}

// overtaken is an error that wraps schedule.ErrStale when a build context that the step reads was read again since the step was keyed: what
// is read of it from then on is not what the keys say.
func (k *keyed) overtaken() error {
	for _, a := range k.ages {
		if a.local.ageNow() != a.age {
			return schedule.ErrOvertaken
		}
	}
	return nil
}

// prepareFinal is claim for steps without a group: the final key is looked up, locked and looked up again.
func (k *keyed) prepareFinal(ctx context.Context) (bool, func(), error) {
	if found, err := k.finalize(ctx); err != nil || found {
		return found, nil, err
	}
	unlock, err := k.n.b.store.Lock(ctx, k.finalKey)
	if err != nil {
		return false, nil, err
	}
	if found, err := k.findFinal(); err != nil || found {
		unlock()
		return found, nil, err
	}
	return false, unlock, nil
}

// findFinal looks for the final key and makes the quick key lead to what it finds.
func (k *keyed) findFinal() (bool, error) {
	found, err := k.find(k.finalKey)
	if err != nil || !found {
		return false, err
	}
	return true, k.alias()
}

func (k *keyed) alias() error {
	if k.finalKey == k.quickKey || k.n.b.dry {
		return nil
	}
	return k.n.b.store.Alias(k.quickKey, k.finalKey)
}

// save stores what the step made and serves it, or compares it with what the cache has. id is what users' keys will hold.
func (k *keyed) save(ctx context.Context, id digest.Digest, outputs []cache.Output, lookups []cache.Lookup, took time.Duration) error {
	e := &cache.Entry{
		ID: id, Key: k.finalKey, Step: k.n.step.Digest, Name: k.n.step.Name, Inputs: k.final.bare(),
		Outputs: outputs, Lookups: lookups, Seconds: took.Seconds(), Created: time.Now().UTC(),
	}
	if k.n.b.dry {
		return k.n.serve(e)
	}
	if k.hit != nil {
		return k.compareHit(ctx, outputs)
	}
	store := k.n.b.store
	if err := store.Put(e); err != nil {
		return err
	}
	if err := k.alias(); err != nil {
		return err
	}
	k.n.b.note(e.Key, k.quickKey)
	k.n.b.noteTime(k.n, took)
	return k.n.serve(e)
}

// latestKey is where the newest entry of a step definition is found that came from elsewhere.
func latestKey(step digest.Digest) digest.Digest {
	return cache.KeyOf([]cache.Input{{Name: "latest of", Digest: step.String()}})
}
