package embedded

import (
	"context"
	"errors"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
)

// claimedKey is a final key in which remote caches claim the content of at least one input.
type claimedKey struct {
	parts    keys.Parts
	all      bothKeys
	portable []key.Part // parts with portable ids
	content  keys.Parts // the parts of the group key
	from     []*source  // who claims the content
}

// claimedContent computes the final key with the content that remote caches claim. from is empty if the content of all
// inputs is known here, or if that of one is neither known nor claimed: then files are read anyway.
func (k *keyed) claimedContent(ctx context.Context) (claimedKey, error) {
	var c claimedKey
	stated := make(map[string]digest.Digest, len(k.reads))
	for _, r := range k.reads {
		d, from := r.in.claimedSelection(r.sel)
		if from != nil {
			stated[r.name] = d
			c.from = append(c.from, from)
			continue
		}
		if !r.in.known(r.sel) {
			return claimedKey{}, nil
		}
	}
	if len(c.from) == 0 {
		return c, nil
	}
	content := func(r readInput) (string, string, error) {
		if d, ok := stated[r.name]; ok {
			return keys.PartContent, d.String(), nil
		}
		d, err := r.in.selection(ctx, r.sel)
		return keys.PartContent, d.String(), err
	}
	p, err := k.withWhole(ctx, k.own, input.id)
	if err == nil {
		c.parts, err = k.withReads(p, content)
	}
	if err == nil {
		c.content, err = k.withReads(k.own, content)
	}
	if err == nil {
		c.portable, err = k.portableParts(ctx, c.parts.Bare())
		c.all = k.bothKeys(c.parts, key.Of(c.portable))
	}
	return c, err
}

// partClaimedReads names the part of a key that holds the origins of what the step reads, see withOrigins.
const partClaimedReads = "remote cache of the files"

// onlyHere reports whether a part of a key is left out of portable keys.
func onlyHere(p key.Part) bool { return p.Name == partClaimedMounts || p.Name == partClaimedReads }

// withOrigins adds the origins of the remote caches on which the files that the step reads depend, if there are any.
// Without the part, times that a cache chose would decide about a result of all builds: make compares them. Look-ups
// try the key without the part first, since what ran here on equal files of this machine is as good. Inputs of which
// everything counts need no part: their ids are made of the claims.
func (k *keyed) withOrigins(p keys.Parts) keys.Parts {
	var t taint
	for _, r := range k.reads {
		if !r.in.scratch() {
			t = t.and(r.in.node.by)
		}
	}
	if len(t) == 0 {
		return p
	}
	return p.With(keys.Parts{{Name: partClaimedReads, Digest: strings.Join(t, "\n")}})
}

// bothKeys returns the keys for a look-up; p is a final key without the part of withOrigins.
func (k *keyed) bothKeys(p keys.Parts, portable digest.Digest) bothKeys {
	of := bothKeys{own: p.Key(), portable: portable}
	if claimed := k.withOrigins(p); len(claimed) > len(p) {
		of.claimed = claimed.Key()
	}
	return of
}

// storedNow returns those of the store's own keys under which this run stored an entry, and whether there are any.
func (of bothKeys) storedNow(b *build) (bothKeys, bool) {
	if !b.storedNow(of.own) {
		of.own = ""
	}
	if !b.storedNow(of.claimed) {
		of.claimed = ""
	}
	return of, of.own != "" || of.claimed != ""
}

// findClaimed looks for the step under a key that is made of claims. A result of this machine may be used: it is what
// the key says. But no alias leads to it, because the quick key need not be about the same files.
func (k *keyed) findClaimed(ctx context.Context, c claimedKey) (bool, error) {
	found, err := k.find(ctx, c.all)
	switch {
	case err != nil:
		return false, err
	case found && k.n.from != nil && k.taintOf(c.from).only(k.n.from):
		return true, k.n.b.adopt(k.n.entry, k.n.from, k.quickPortable)
	case found && k.n.from == nil:
		k.n.selectedBy(c.from[0])
		return true, nil
	case found || k.shareClaimed == nil:
		return found, nil
	}
	return k.shareClaimed(ctx, c)
}

// taintOf returns what a result depends on that was found with the step's inputs and with claims of other caches.
func (k *keyed) taintOf(others []*source) taint {
	t := k.n.inputTaint()
	for _, s := range others {
		t = t.and(taint{s.origin.ID()})
	}
	return t
}

// known reports whether the digest of a selection is known without reading layers.
func (in input) known(sel tree.Selection) bool {
	if in.scratch() || in.local() {
		return true
	}
	_, ok := in.node.remembered(keys.SelectionName(in.index, sel))
	return ok
}

// offline reports whether a preview cannot go on because files are not on this machine.
func offline(err error) bool { return errors.Is(err, errOffline) || errors.Is(err, errNoChain) }

// unnamed returns a remote cache of which this store has a claim about the step, and which the build does not name.
func (k *keyed) unnamed() string {
	c := k.n.b.imports
	for _, origin := range k.n.b.claimOrigins() {
		if c.names(origin) {
			continue
		}
		set := k.n.b.store.ClaimSet(origin)
		for _, of := range []digest.Digest{k.quickPortable, k.finalPortable} {
			if of != "" && set.Has(of) {
				_, text, _ := strings.Cut(origin, " ")
				return text
			}
		}
	}
	return ""
}

// names reports whether the build names the cache of an origin.
func (c *imports) names(origin string) bool {
	if c == nil {
		return false
	}
	for _, s := range c.sources {
		if s.origin.ID() == origin {
			return true
		}
	}
	return false
}

// shareResult stores and serves what a claimed candidate is for the step's own parent. It is a claim of the same cache.
func (f *fileStep) shareResult(ctx context.Context, match claimed, c claimedKey) error {
	e := &cache.Entry{
		ID: key.Of(c.portable), Key: key.Of(c.portable), Step: f.n.step.Digest, Name: f.n.step.Name, Inputs: c.portable,
		Outputs: []cache.Output{f.output(ownLayer(match.Entry))}, Lookups: match.Lookups, Created: match.Created,
	}
	f.n.result.Reason = "found in the cache " + match.from.String()
	if f.taintOf(c.from).only(match.from) {
		if err := f.n.b.adopt(e, match.from, f.quickPortable); err != nil {
			return err
		}
	} else if err := f.n.b.keepEmpty(e); err != nil {
		return err
	}
	return f.n.serve(e, match.from)
}
