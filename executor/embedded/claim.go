package embedded

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
	"github.com/bakebuild/bake/executor/keys"
)

// Claims.
//
// The problem: an entry of a remote cache says that a step makes a layer. The layer can be verified, the statement
// cannot. The writer of a cache also chooses the ids in it. If the entry were stored like the result of a step that
// ran here, it would serve every later build of this machine, and so would each step that runs on top of it.
//
// The idea: ids in an index are names inside that index. An imported layer gets an id from its verified content
// (importedID). A step that is served from a claim gets an id from the origin of the cache, the id in the index, and
// what its outputs are made of (claimID). Such an id cannot be chosen: it is a hash, and no step that ran here has it.
// So a step that runs on top of a claim has a key that only builds which accept the claim compute. Its result is then
// stored like any other.
//
// To find the entries of an index, keys are computed a second time, with the ids that the index uses. Those are the
// node's portable ids, and the keys portable keys. They are used for nothing but look-ups among claims, and for
// exports. Without claims below, a portable id is the id.
//
// The digest of what a step reads does not cover the times of files, but a copy and a mount have them, and those of a
// layer of a cache are what the cache says. So the final and group keys of a step that ran here on such files have one
// more part, the caches that they depend on; see withOrigins. So has the name of a cache mount that such files fill,
// see filledName. TestClaimedTimes shows it.
//
// The invariant: under a key in the store's own entries is only what ran here on the content that the ids and digests
// in the key name, with times that only the caches in the key could choose. What follows from claims alone (a digest
// of a selection that an index states, a candidate of an index) is stored with the claims of that cache, and only if no
// other cache was involved. TestClaim* show it.

// source is a remote cache that this build names.
type source struct {
	remotecache.Source
	origin remotecache.Origin
	set    *cache.ClaimSet      // taken by this build and earlier ones
	index  *remotecache.Catalog // nil until it is loaded, and if there is none
	warned bool                 // of a wrong entry; guarded by imports.mu
	// unusable and lacking count the lost layers, see blame; guarded by imports.mu. stopped is set after too many.
	unusable, lacking int
	stopped           atomic.Bool
	// partial is set if what is not found may still be in the cache: it could not be read, or not all of it.
	partial atomic.Bool
}

// catalog returns the index, which must be loaded; nil if there is none or the cache is not used any more.
func (s *source) catalog() *remotecache.Catalog {
	if s.stopped.Load() {
		return nil
	}
	return s.index
}

// lookup returns a claim that was stored before, and the caches that were asked before it.
func (s *source) lookup(key digest.Digest) (e *cache.Entry, after []string, err error) {
	if s.stopped.Load() {
		return nil, nil, nil
	}
	return s.set.Lookup(key)
}

// taint holds the origins of the remote caches that a result depends on, sorted.
type taint []string

// and returns the caches that two results depend on.
func (t taint) and(o taint) taint {
	if len(t) == 0 || len(o) == 0 {
		return slices.Concat(t, o)
	}
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(t, o))))
}

// only reports whether the result depends on no other cache than s.
func (t taint) only(s *source) bool {
	return len(t) == 0 || len(t) == 1 && t[0] == s.origin.ID()
}

// importedID returns the id of a layer of an index: a hash of what is verified when it is unpacked. Encoding is part of
// it, because the name of an encoding is a claim that stays with the layer, and so are the blobs: they are recorded for
// the id, so caches that state other blobs must not share it. A layer without a blob is never unpacked; its id only has
// to differ from all others.
func importedID(l *remotecache.Layer, from remotecache.Origin) digest.Digest {
	if l.Blob == nil || l.Paths == nil {
		return key.Of([]key.Part{{Name: "claimed layer", Digest: l.ID.String()}, {Name: "of", Digest: from.ID()}})
	}
	return contentID(l)
}

// contentID is importedID of a layer with a blob, and its name in an export.
func contentID(l *remotecache.Layer) digest.Digest {
	return key.Of([]key.Part{
		{Name: "imported layer", Digest: l.DiffID.String()}, {Name: "encoding", Digest: l.Encoding},
		{Name: "paths", Digest: l.Paths.Digest.String()}, {Name: "size of paths", Digest: fmt.Sprint(l.Paths.Size)},
		{Name: "blob", Digest: l.Blob.Digest.String()}, {Name: "size of blob", Digest: fmt.Sprint(l.Blob.Size)},
	})
}

// claimID returns the id of a step that is served from a claim. It covers the layers and the inputs that the outputs
// are made of, so the id stands for one content.
func (n *node) claimID(ctx context.Context, e *cache.Entry, from *source) (digest.Digest, error) {
	p := keys.Parts{{Name: "claim", Digest: e.ID.String()}, {Name: "of", Digest: from.origin.ID()}}
	for i, o := range e.Outputs {
		for _, part := range o.Parts {
			text := part.Layer.String()
			if part.Layer == "" {
				id, err := input{n.input(part.Input).node, part.Index}.id(ctx)
				if err != nil {
					return "", err
				}
				text = "input " + id
			}
			p = append(p, key.Part{Name: "output " + strconv.Itoa(i), Digest: text})
		}
	}
	return p.Key(), nil
}

// portableID returns what represents the input in the portable keys.
func (in input) portableID(ctx context.Context) (string, error) {
	switch {
	case in.scratch(), in.local():
		return in.id(ctx)
	case in.index == 0:
		return in.node.portable.String(), nil
	}
	return fmt.Sprintf("%s:%d", in.node.portable, in.index), nil
}

// renamed reports whether an input of the step has a portable id of its own.
func (k *keyed) renamed() bool {
	differs := func(in input) bool { return !in.scratch() && !in.local() && in.node.portable != in.node.id }
	return slices.ContainsFunc(k.whole, func(w wholeInput) bool { return differs(w.in) }) ||
		slices.ContainsFunc(k.reads, func(r readInput) bool { return differs(r.in) })
}

// portableParts returns the parts of a final key with the portable ids of the inputs, and without the parts that only
// this machine has.
func (k *keyed) portableParts(ctx context.Context, own []key.Part) ([]key.Part, error) {
	out := slices.DeleteFunc(slices.Clone(own), onlyHere)
	for _, w := range k.whole {
		id, err := w.in.id(ctx)
		if err != nil {
			return nil, err
		}
		name, err := w.in.portableID(ctx)
		if err != nil {
			return nil, err
		}
		for i, p := range out {
			if p.Name == w.name && p.Digest == id {
				out[i].Digest = name
			}
		}
	}
	return out, nil
}

// inputTaint returns the caches that the inputs of a step depend on.
func (n *node) inputTaint() taint {
	var t taint
	for _, in := range n.inputs {
		if !in.scratch() {
			t = t.and(in.node.by)
		}
	}
	return t
}

// bothKeys is the key of a step in both forms. claimed is own with the part of withOrigins, empty if there is none.
type bothKeys struct{ own, claimed, portable digest.Digest }
