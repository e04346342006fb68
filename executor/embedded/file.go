package embedded

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
)

// fileStep executes a file op: copies, directories, files, links and removals on one parent.
//
// Candidates. A COPY onto fifty different parents usually writes the same layer fifty times. It does so whenever it
// sees the same things in its parent, for example that /app is a directory owned by root. So an operation records
// each lookup in its parent and the answer. The entry is stored as a candidate under the group key, which is the
// final key without the parent. A step whose own key is unknown repeats the lookups of each candidate in its own
// parent. If all answers are equal, it uses that layer.
//
// The invariant: fileop reads its parent only through the recorded lookups. If it read something else, a candidate
// could match a parent on which the operation would write other files, and an image would be wrong without an error.
// The cost is one lookup per path and candidate, without opening file contents. The group key is locked while the
// operation runs, so steps that start together copy once. TestCopyRunsOnceForAllParents shows the sharing.
type fileStep struct {
	keyed
	group keys.Parts // the parts of the group key, without that of withOrigins
}

// newFileStep parses the op.
func newFileStep(n *node) (*fileStep, error) {
	k, err := newKeyed(n)
	if err != nil {
		return nil, err
	}
	f := &fileStep{keyed: k}
	f.shareClaimed = f.shareClaim
	return f, nil
}

// parent returns the file system that the actions change.
func (f *fileStep) parent() input { return f.whole[0].in }

// prepare looks up the final key, then candidates of the group, and locks the group if it finds none.
func (f *fileStep) prepare(ctx context.Context) (bool, func(), error) {
	if found, err := f.finalize(ctx); err != nil || found {
		return found, nil, err
	}
	var err error
	if f.group, err = f.withContent(ctx, f.own); err == nil {
		err = f.overtaken()
	}
	if err != nil {
		return false, nil, err
	}
	unlock, err := f.n.b.store.Lock(ctx, f.group.Key())
	if err != nil {
		return false, nil, err
	}
	found, err := f.findFinal(ctx)
	if err == nil && !found {
		found, err = f.share(ctx, f.group)
	}
	if err != nil || found {
		unlock()
		return found, nil, err
	}
	return false, unlock, nil
}

// share uses a candidate whose lookups get the same answers in this step's parent: one of this machine, else one of a
// remote cache.
func (f *fileStep) share(ctx context.Context, group keys.Parts) (bool, error) {
	of := f.bothKeys(group, "")
	if found, err := f.shareOwn(ctx, of.own); err != nil || found {
		return found, err
	}
	if of.claimed != "" {
		if found, err := f.shareOwn(ctx, of.claimed); err != nil || found {
			return found, err
		}
	}
	if !f.mayShare(of.own) {
		return false, nil
	}
	portable, err := f.portableParts(ctx, f.final.Bare())
	if err != nil {
		return false, err
	}
	return f.shareFrom(ctx, of.own, claimedKey{portable: portable})
}

// shareOwn uses a candidate of this machine.
func (f *fileStep) shareOwn(ctx context.Context, group digest.Digest) (bool, error) {
	if !f.mayShare(group) {
		return false, nil
	}
	own, err := f.n.b.store.Candidates(group)
	if err != nil {
		return false, err
	}
	match, err := f.match(ctx, asClaimed(own))
	if err != nil || match == nil {
		return false, err
	}
	if !slices.ContainsFunc(match.Inputs, onlyHere) {
		// No remote cache is behind the layer, so none is behind this result.
		f.final = f.clean
		if err := f.setFinal(ctx); err != nil {
			return false, err
		}
	}
	layer := ownLayer(match.Entry)
	if err := f.n.b.keepEmpty(match.Entry); err != nil {
		return false, err
	}
	err = f.save(ctx, f.finalKey, []cache.Output{f.output(layer)}, match.Lookups, 0)
	if err != nil || f.n.b.dry || f.hit != nil {
		return true, err
	}
	return true, f.remember(ctx, f.final)
}

func (f *fileStep) mayShare(group digest.Digest) bool {
	return !f.n.forced() && f.hit == nil || f.n.b.storedNow(group)
}

// shareClaim is share with a key that is made of claims. A candidate of this machine is not used: its result would be
// stored under that key.
func (f *fileStep) shareClaim(ctx context.Context, c claimedKey) (bool, error) {
	group := c.content.Key()
	if !f.mayShare(group) {
		return false, nil
	}
	return f.shareFrom(ctx, group, c)
}

// shareFrom uses a candidate of a remote cache.
func (f *fileStep) shareFrom(ctx context.Context, group digest.Digest, c claimedKey) (bool, error) {
	others, err := f.n.b.imports.candidates(group, f.n.likeFile)
	if err != nil {
		return false, err
	}
	match, err := f.match(ctx, others)
	if err != nil || match == nil || f.putAside(match.Entry, match.from) {
		return false, err
	}
	if err := f.shareResult(ctx, *match, c); err != nil || f.n.b.dry {
		return true, err
	}
	return true, nil
}

// match returns the first candidate whose lookups get the same answers in the step's parent, or nil.
func (f *fileStep) match(ctx context.Context, others []claimed) (match *claimed, err error) {
	if len(others) == 0 {
		return nil, nil
	}
	err = f.parent().read(ctx, func(parent tree.FS) error {
		match = nil
		for i, e := range others {
			if ok, err := recheck(parent, e.Lookups); err != nil || ok {
				match = &others[i]
				return err
			}
		}
		return nil
	})
	return match, err
}

// asClaimed returns candidates of this machine.
func asClaimed(own []*cache.Entry) []claimed {
	all := make([]claimed, len(own))
	for i, e := range own {
		all[i] = claimed{e, nil}
	}
	return all
}

// recheck reports whether all lookups get the same answers in parent.
func recheck(parent tree.FS, lookups []cache.Lookup) (bool, error) {
	list := make([]fileop.Lookup, len(lookups))
	for i, l := range lookups {
		list[i] = fileop.Lookup{Path: rawOf(l.Path), Answer: rawOf(l.Answer)}
	}
	return fileop.Recheck(parent, list), nil
}

// textOf encodes a string of any bytes as valid UTF-8, which entries hold; rawOf is its inverse.
func textOf(raw string) string {
	if utf8.ValidString(raw) && !strings.HasPrefix(raw, `"`) {
		return raw
	}
	return strconv.QuoteToASCII(raw)
}

func rawOf(text string) string {
	if !strings.HasPrefix(text, `"`) {
		return text
	}
	raw, err := strconv.Unquote(text)
	if err != nil {
		return text // not written by textOf: it matches nothing
	}
	return raw
}

// ownLayer returns the layer that an entry's step created; emptyLayer if it changed nothing.
func ownLayer(e *cache.Entry) digest.Digest {
	for _, out := range e.Outputs {
		for _, p := range out.Parts {
			if p.Layer != "" {
				return p.Layer
			}
		}
	}
	return emptyLayer
}

// output returns the step's only output: its parent with one layer on top.
func (f *fileStep) output(layer digest.Digest) cache.Output {
	var parts []cache.Part
	if f.parentInput != int(pb.Empty) {
		parts = append(parts, cache.Part{Input: f.parentInput, Index: f.parent().index})
	}
	return cache.Output{Parts: append(parts, cache.Part{Layer: layer})}
}

// run creates the layer and stores it as a candidate.
func (f *fileStep) run(ctx context.Context) error {
	started := time.Now()
	layer := layerID(f.finalKey, f.n.b.nonce, 0)
	res, err := f.apply(ctx, layer)
	if err != nil {
		return err
	}
	if !res.Changed {
		layer = emptyLayer
	}
	lookups := make([]cache.Lookup, len(res.Lookups))
	for i, l := range res.Lookups {
		lookups[i] = cache.Lookup{Path: textOf(l.Path), Answer: textOf(l.Answer)}
	}
	if err := f.save(ctx, f.finalKey, []cache.Output{f.output(layer)}, lookups, time.Since(started)); err != nil {
		return err
	}
	if err := f.n.checkOwners(); err != nil || f.hit != nil {
		return err
	}
	group := f.withOrigins(f.group).Key()
	f.n.b.note(group)
	return f.n.b.store.PutCandidate(group, f.n.entry)
}

// apply runs the actions into a new layer and commits it under id, or as the empty layer if they changed nothing.
func (f *fileStep) apply(ctx context.Context, id digest.Digest) (fileop.Result, error) {
	inputs := make([]input, len(f.n.inputs))
	copy(inputs, f.n.inputs)
	return f.n.b.makeLayer(ctx, newLayer{
		id: id, op: f.n.step.Op.GetFile(), parent: f.parent().read, inputs: inputs, check: f.overtaken,
	})
}
