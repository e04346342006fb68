package embedded

import (
	"context"
	"fmt"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/executor/tree"
)

// keyed is the part that file and exec operations share: their keys, and how entries are found and stored.
//
// The problem: a key from the content of all inputs would make every build open and hash layers. A key from the ids
// of all inputs would run a step again whenever an input was rebuilt, even to the same files. So a step has up to
// three keys.
//
// Quick: the ids of the entries that served the inputs, and content digests of what the step reads from build
// contexts. It is known without opening a layer, so a fully cached build reads entries and stats files only.
//
// Final: content digests instead of ids for inputs that the step only reads from (early cut-off). A rebuilt stage
// with the same files is a hit, and so are all steps after it. Entries are stored under the final key; the quick key
// becomes an alias. Inputs that become part of the output keep their ids, because the output contains their layers.
//
// Group, of file operations: the final key without the parent, see fileStep.
//
// The final and group keys of a step that reads files of a remote cache have one more part, see withOrigins.
//
// The invariant: two steps with one final key may use each other's result, and an alias leads only to the entry of
// the final key that was computed from the same state of the inputs. That is why finalize checks overtaken before it
// uses the key: if a context is read again in between, the quick key describes old files and the final key new ones.
// An alias between them would serve the new result for the old files in every later build. The cost of the final key
// is one content digest per selection, stored with the entry of the input. The id of a command's entry is random for
// each run, because a command need not write the same files twice. TestOvertakenStep shows the check.
type keyed struct {
	n *node
	// own is the canonical op.
	own keys.Parts
	// whole are the inputs of which everything counts, the parent first.
	whole []wholeInput
	// parentInput is the number of the op input that is the parent.
	parentInput int
	// reads are the selections of files that the step reads.
	reads []readInput

	quickKey, finalKey digest.Digest
	// quickPortable and finalPortable are the same with portable ids.
	quickPortable, finalPortable digest.Digest
	final                        keys.Parts
	// clean is final without the part of withOrigins.
	clean keys.Parts
	// shareClaimed looks for a claim about the same operation on another parent; nil for other operations.
	shareClaimed func(ctx context.Context, c claimedKey) (bool, error)
	// mountsFrom are the remote caches that filled cache mounts of the step. filledMounts returns those of which mounts
	// are here; it is nil for steps without cache mounts. See findFilled.
	mountsFrom   []string
	filledMounts func() []string
	known        keys.Parts // the parts of the key that was computed last
	// ages are the ages of the step's build contexts at the time the step was keyed.
	ages []contextAge
	// hit is the cached entry, set only with --verify-cache, and hitFrom the remote cache that claims it.
	hit     *cache.Entry
	hitFrom *source
}

// newKeyed returns what enters the keys of a step: of an exec op, a file op or a test.
func newKeyed(n *node) (keyed, error) {
	s, err := keys.StepOf(n.step)
	if err != nil {
		return keyed{}, err
	}
	k := keyed{n: n, own: s.Own}
	for i, w := range s.Whole {
		if i == 0 {
			k.parentInput = w.Input
		}
		k.whole = append(k.whole, wholeInput{w.Name, n.input(w.Input)})
	}
	for _, r := range s.Reads {
		k.reads = append(k.reads, readInput{name: r.Name, what: r.What, in: n.input(r.Input), sel: r.Selection})
	}
	return k, nil
}

// contextAge is how often a build context had been read again at a given time.
type contextAge struct {
	local *localSource
	age   int
}

// wholeInput is an input that is part of the keys by its id.
type wholeInput struct {
	name string
	in   input
}

// readInput is an input of which only the selected files are part of the final key.
type readInput struct {
	name string // of the key part
	what string // the files as the Dockerfile names them, for errors
	in   input
	sel  tree.Selection
}

// idOf returns what represents an input in a key: input.id or input.portableID.
type idOf func(in input, ctx context.Context) (string, error)

// quick computes the parts of the quick key.
func (k *keyed) quick(ctx context.Context, id idOf) (keys.Parts, error) {
	p, err := k.withWhole(ctx, k.own, id)
	if err != nil {
		return nil, err
	}
	return k.withReads(p, func(r readInput) (string, string, error) {
		if r.in.local() || r.in.scratch() {
			d, err := r.in.selection(ctx, r.sel)
			return keys.PartContent, d.String(), err
		}
		// The op does not say which files it copies, see keys.StepOf; without the selection, copies of two files from
		// one stage would have one key. TestCopyOfTwoFilesFromOneStage shows it.
		name, err := id(r.in, ctx)
		return "step of ", name + " " + keys.SelectionName(r.in.index, r.sel), err
	})
}

// withContent adds the content digests of all reads to p.
func (k *keyed) withContent(ctx context.Context, p keys.Parts) (keys.Parts, error) {
	return k.withReads(p, func(r readInput) (string, string, error) {
		d, err := r.in.selection(ctx, r.sel)
		return keys.PartContent, d.String(), err
	})
}

func (k *keyed) withWhole(ctx context.Context, p keys.Parts, id idOf) (keys.Parts, error) {
	for _, w := range k.whole {
		name, err := id(w.in, ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		p = p.With(keys.Parts{{Name: w.name, Digest: name, Value: w.in.display()}})
	}
	return p, nil
}

func (k *keyed) withReads(p keys.Parts, value func(readInput) (prefix, value string, err error)) (keys.Parts, error) {
	for _, r := range k.reads {
		prefix, v, err := value(r)
		if err != nil {
			return nil, k.n.sourceError(r, err)
		}
		p = p.With(keys.Parts{{Name: prefix + r.name, Digest: v, Value: r.in.display()}})
	}
	return p, nil
}

// lookup computes the quick key and looks it up.
func (k *keyed) lookup(ctx context.Context) (bool, error) {
	k.ages = k.ages[:0]
	for _, in := range k.n.inputs {
		if in.local() {
			k.ages = append(k.ages, contextAge{in.node.local, in.node.local.Age()})
		}
	}
	p, err := k.quick(ctx, input.id)
	if err != nil {
		return false, err
	}
	k.quickKey, k.quickPortable, k.known = p.Key(), p.Key(), p
	if k.renamed() {
		portable, err := k.quick(ctx, input.portableID)
		if err != nil {
			return false, err
		}
		k.quickPortable = portable.Key()
	}
	k.n.result.Key = k.quickKey
	if found, err := k.findFilled(p); err != nil || found {
		return found, err
	}
	return k.find(ctx, bothKeys{own: k.quickKey, portable: k.quickPortable})
}

// find serves the step from the entry under a key, if there is a usable one.
func (k *keyed) find(ctx context.Context, of bothKeys) (bool, error) {
	now, ranNow := of.storedNow(k.n.b)
	if k.n.forced() {
		if !ranNow {
			return false, nil
		}
		of = now
	}
	e, from, err := k.n.b.entry(of, k.n.fits)
	if err != nil || e == nil || k.putAside(e, from) {
		return false, err
	}
	if from != nil {
		k.n.result.Reason = "found in the cache " + from.String()
		if err := k.n.b.adopt(e, from, of.portable); err != nil {
			return false, err
		}
	}
	if !k.n.b.dry && ranNow && (of.own != k.quickKey || !k.readsSteps()) {
		// Another step with this key ran just now: record the run for this step's place, and its own files, too.
		if err := k.remember(ctx, k.known); err != nil {
			return false, err
		}
	}
	return true, k.n.serve(e, from)
}

// readsSteps reports whether the quick key contains ids of steps whose files the step reads.
func (k *keyed) readsSteps() bool {
	return slices.ContainsFunc(k.reads, func(r readInput) bool { return !r.in.local() && !r.in.scratch() })
}

// finalize computes the final key, which may read content of inputs, and looks it up. What remote caches claim about
// the content is tried first: then a step whose inputs are unchanged is found without fetching their files. A key made
// of such claims stores nothing.
func (k *keyed) finalize(ctx context.Context) (bool, error) {
	claim, err := k.claimedContent(ctx)
	if err != nil {
		return false, err
	}
	if len(claim.from) > 0 {
		if found, err := k.findClaimed(ctx, claim); err != nil || found {
			return found, err
		}
	}
	p, err := k.withWhole(ctx, k.own, input.id)
	if err != nil {
		return false, err
	}
	k.clean, err = k.withContent(ctx, p)
	if k.n.b.dry && len(claim.from) > 0 && offline(err) {
		k.clean, err = claim.parts, nil // a preview fetches nothing
	}
	if err != nil {
		return false, err
	}
	// Otherwise the alias would lead to files that the quick key does not describe.
	if err := k.overtaken(); err != nil {
		return false, err
	}
	k.final = k.withOrigins(k.clean)
	if err := k.setFinal(ctx); err != nil || k.finalKey == k.quickKey {
		return false, err
	}
	return k.findFinal(ctx)
}

// setFinal sets the final keys from k.final.
func (k *keyed) setFinal(ctx context.Context) error {
	k.finalKey, k.known = k.final.Key(), k.final
	k.finalPortable = k.finalKey
	k.n.result.Key = k.finalKey
	if !k.renamed() && !slices.ContainsFunc(k.final, onlyHere) {
		return nil
	}
	parts, err := k.portableParts(ctx, k.final)
	k.finalPortable = key.Of(parts)
	return err
}

// overtaken returns an error that wraps schedule.ErrStale if a build context was read again since the step was keyed.
// Its files are then no longer those in the keys.
func (k *keyed) overtaken() error {
	for _, a := range k.ages {
		if a.local.Age() != a.age {
			return schedule.ErrOvertaken
		}
	}
	return nil
}

// prepareFinal is prepare for steps without a group: the final key is looked up, locked and looked up again.
func (k *keyed) prepareFinal(ctx context.Context) (bool, func(), error) {
	if found, err := k.finalize(ctx); err != nil || found {
		return found, nil, err
	}
	unlock, err := k.n.b.store.Lock(ctx, k.finalKey)
	if err != nil {
		return false, nil, err
	}
	if found, err := k.findFinal(ctx); err != nil || found {
		unlock()
		return found, nil, err
	}
	return false, unlock, nil
}

// findFinal looks up the final key and makes the quick key an alias of it. An alias among the claims of a cache must
// follow from that cache alone. TestClaimedAlias shows it.
func (k *keyed) findFinal(ctx context.Context) (bool, error) {
	found, err := k.find(ctx, k.bothKeys(k.clean, k.finalPortable))
	if err != nil || !found {
		return false, err
	}
	switch from := k.n.from; {
	case from == nil:
		return true, k.alias(k.n.entry)
	case !k.taintOf(nil).only(from):
		return true, nil // the quick key is made of what other caches claim: this one does not say where it leads
	default:
		return true, k.n.b.adopt(k.n.entry, from, k.quickPortable)
	}
}

// alias makes the quick key lead to an entry that was found or stored under a final key.
func (k *keyed) alias(e *cache.Entry) error {
	if e.Key == k.quickKey || k.n.b.dry {
		return nil
	}
	return k.n.b.store.Alias(k.quickKey, e.Key)
}

// save stores the step's result and serves it, or compares it with the cached one. id becomes part of the keys of
// users.
func (k *keyed) save(
	ctx context.Context, id digest.Digest, outputs []cache.Output, lookups []cache.Lookup, took time.Duration,
) error {
	e := &cache.Entry{
		ID: id, Key: k.finalKey, Step: k.n.step.Digest, Name: k.n.step.Name, Inputs: k.final.Bare(),
		Outputs: outputs, Lookups: lookups, Seconds: took.Seconds(), Created: time.Now().UTC(),
	}
	if k.n.b.dry {
		return k.n.serve(e, nil)
	}
	if k.hit != nil {
		return k.compareHit(ctx, outputs)
	}
	store := k.n.b.store
	if err := store.Put(e); err != nil {
		return err
	}
	if err := k.alias(e); err != nil {
		return err
	}
	k.n.b.note(e.Key, k.quickKey)
	k.n.b.noteTime(k.n, took)
	return k.n.serve(e, nil)
}
