package embedded

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/carry"
)

// carryOuts are the caches that targets ask for. Several targets that name one place have one cache there.
func (b *build) carryOuts() []*carryOut {
	var outs []*carryOut
	for _, to := range b.carried.outs {
		i := slices.IndexFunc(outs, func(o *carryOut) bool { return o.place.Same(to.place) })
		if i < 0 {
			i = len(outs)
			outs = append(outs, &carryOut{
				b: b, place: to.place, open: map[digest.Digest]carry.Source{},
				steps: map[*node]bool{}, all: map[*node]bool{}, shipped: map[*node]bool{},
			})
		}
		outs[i].place.Mounts = outs[i].place.Mounts.With(to.place.Mounts)
		outs[i].add(to.target, to.place.Max)
	}
	return outs
}

// exportCaches writes caches. What goes wrong is said, and no fault of the build.
func (b *build) exportCaches(ctx context.Context, outs []*carryOut) {
	for _, o := range outs {
		to := o.place.Destination(b.engine.client)
		a := b.events.begin("export cache to " + to.String())
		err := o.export(ctx, to, a)
		if err != nil && ctx.Err() == nil {
			b.carried.warn(fmt.Sprintf("the cache %s is not written: %v", to, err))
		}
		a.end(nil)
	}
}

// carryOut is one cache that is written: the steps of the targets that name its place.
type carryOut struct {
	b     *build
	place carry.Place
	// steps are the steps whose entries go along. Their layers do where they are in all, which is mode=max, or in shipped:
	// the layers that an image has.
	steps, all, shipped map[*node]bool
	index               carry.Index

	mu   sync.Mutex
	open map[digest.Digest]carry.Source // blobs that are in a cache from elsewhere and not here
}

// add adds the steps of a target; one that others link to, and that has no image of its own, with all their layers.
func (o *carryOut) add(target string, max bool) {
	var roots []*node
	for _, image := range o.b.graph.Images {
		if n := o.b.of(image.Root).node; n != nil && image.Target == target {
			roots = append(roots, n)
		}
	}
	if len(roots) == 0 {
		max = true
		roots = slices.DeleteFunc(slices.Clone(o.b.nodes), func(n *node) bool { return !slices.Contains(n.step.Targets, target) })
	}
	for _, n := range roots {
		reach(o.steps, n, (*node).every)
		if max {
			reach(o.all, n, (*node).every)
		} else {
			reach(o.shipped, n, (*node).carries)
		}
	}
}

// reach adds a node and those that next leads to.
func reach(seen map[*node]bool, n *node, next func(*node) []int) {
	if n == nil || seen[n] {
		return
	}
	seen[n] = true
	for _, k := range next(n) {
		reach(seen, n.input(k).node, next)
	}
}

// every are all inputs of a node.
func (n *node) every() []int {
	all := make([]int, len(n.inputs))
	for i := range all {
		all[i] = i
	}
	return all
}

// whole says whether the layers of a step go along.
func (o *carryOut) whole(n *node) bool { return o.all[n] || o.shipped[n] }

// packing is how a layer that has no blob yet becomes one.
func (o *carryOut) packing(n *node) packing {
	form := executor.LayerForm{Compression: string(o.place.Form.Algorithm), Level: o.place.Form.Level}
	return packing{form: form, epoch: o.epochOf(n)}
}

// export packs what is missing and writes the cache.
func (o *carryOut) export(ctx context.Context, to carry.Destination, a *activity) error {
	if err := o.collect(ctx); err != nil {
		return err
	}
	if err := o.mountsOut(ctx, o.place.Mounts); err != nil {
		o.b.carried.warn(fmt.Sprintf("the cache %s: %v", to, err))
	}
	for {
		err := o.write(ctx, to, a)
		if bad, ok := carry.Unusable(err); !ok || !o.leaveBehind(bad) {
			return err
		}
	}
}

// leaveBehind takes a blob that cannot be had out of the index, and says whether it was there.
func (o *carryOut) leaveBehind(d digest.Digest) bool {
	found := false
	is := func(b *carry.Blob) bool { return b != nil && b.Digest == d }
	for i, l := range o.index.Layers {
		if is(l.Blob) || is(l.Paths) {
			o.index.Layers[i], found = carry.Layer{ID: l.ID}, true
		}
	}
	before := len(o.index.Mounts)
	o.index.Mounts = slices.DeleteFunc(o.index.Mounts, func(m carry.Mount) bool { return is(m.Blob) || is(m.Paths) })
	return found || len(o.index.Mounts) < before
}

// write writes the cache as it is collected.
func (o *carryOut) write(ctx context.Context, to carry.Destination, a *activity) error {
	return to.Export(ctx, carry.Export{
		Index: &o.index, Distrust: o.b.carried.distrusts,
		Open: func(ctx context.Context, blob carry.Blob) (io.ReadCloser, error) {
			r, err := o.openBlob(ctx, blob)
			if err != nil {
				return nil, err
			}
			body := &counter{r: r, report: func(done int64) { a.progress(blob.Digest.String(), done, blob.Size) }}
			return readCloser{body, r}, nil
		},
	})
}

// from notes that blobs are in a cache from elsewhere.
func (o *carryOut) from(l carriedLayer, blobs ...*carry.Blob) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, blob := range blobs {
		if blob != nil {
			o.open[blob.Digest] = l.from
		}
	}
}

func (o *carryOut) openBlob(ctx context.Context, blob carry.Blob) (io.ReadCloser, error) {
	if o.b.store.HasBlob(blob.Digest, blob.Size) {
		return os.Open(o.b.store.BlobPath(blob.Digest))
	}
	o.mu.Lock()
	from := o.open[blob.Digest]
	o.mu.Unlock()
	if from == nil {
		return nil, fmt.Errorf("blob %s is gone from the cache of this machine", blob.Digest)
	}
	return from.Open(ctx, blob)
}

// wantedLayer is a layer that entries lead to.
type wantedLayer struct {
	layer
	packing packing
	whole   bool
}

// collect makes the index, and packs layers that have no blob yet.
func (o *carryOut) collect(ctx context.Context) error {
	wanted := map[digest.Digest]wantedLayer{}
	var ids []digest.Digest
	for _, n := range o.b.nodes {
		e, ok := n.carriedOut()
		if !ok || !o.steps[n] {
			continue
		}
		o.index.Entries = append(o.index.Entries, e)
		if h, ok := n.op.(*httpStep); ok {
			if answer, _, err := o.b.entry(h.lastAnswer()); err == nil && answer != nil {
				o.index.Entries = append(o.index.Entries, carry.Entry{Entry: *answer})
			}
		}
		_, ran := n.op.(*execStep)
		for _, id := range n.ownLayers() {
			w, seen := wanted[id]
			if !seen {
				ids = append(ids, id)
				w = wantedLayer{layer: layer{id: id, ran: ran}, packing: o.packing(n)}
			}
			w.whole = w.whole || o.whole(n)
			wanted[id] = w
		}
	}
	o.index.Entries = unique(o.index.Entries)
	o.index.Layers = make([]carry.Layer, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxTransfers)
	for i, id := range ids {
		g.Go(func() (err error) {
			o.index.Layers[i], err = o.layerOut(ctx, wanted[id])
			return err
		})
	}
	return g.Wait()
}

// unique drops entries that several steps of a graph share.
func unique(all []carry.Entry) []carry.Entry {
	slices.SortStableFunc(all, func(a, b carry.Entry) int { return cmp.Compare(a.Key, b.Key) })
	var out []carry.Entry
	for _, e := range all {
		if len(out) > 0 && out[len(out)-1].Key == e.Key {
			last := &out[len(out)-1]
			last.Aliases = append(last.Aliases, e.Aliases...)
			slices.Sort(last.Aliases)
			last.Aliases = slices.Compact(last.Aliases)
			continue
		}
		out = append(out, e)
	}
	return out
}

// epochOf is what times of the layers of a step become in the first image that has it.
func (o *carryOut) epochOf(n *node) int64 {
	for _, image := range o.b.graph.Images {
		if slices.Contains(n.step.Targets, image.Target) {
			return o.b.epoch(image).Unix()
		}
	}
	return executor.DefaultEpoch().Unix()
}

// carriedOut is the entry of a step as it travels, with the quick key under which the step was looked up.
func (n *node) carriedOut() (carry.Entry, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.entry == nil {
		return carry.Entry{}, false
	}
	e := carry.Entry{Entry: *n.entry}
	var k *keyed
	switch op := n.op.(type) {
	case *execStep:
		k = &op.keyed
	case *fileStep:
		k = &op.keyed
	case *baseImage: // which manifest it has is known where the manifest is
		e.Lookups, e.Created, e.Outputs = nil, e.Created.Truncate(0), nil
		return e, len(e.Selections) > 0
	}
	if k != nil && k.quickKey != "" && k.quickKey != e.Key {
		e.Aliases = []digest.Digest{k.quickKey}
	}
	return e, true
}

// layerOut is a layer as it travels: one that came from elsewhere and is not here goes on as it is.
func (o *carryOut) layerOut(ctx context.Context, w wantedLayer) (carry.Layer, error) {
	b := o.b
	if !w.whole {
		return carry.Layer{ID: w.id}, nil
	}
	if _, here := b.store.LayerDir(w.id); !here {
		if l, ok := b.carried.layer(w.id); ok {
			o.from(l, l.Blob, l.Paths)
			return l.Layer, nil
		}
	}
	p, err := o.packedOut(ctx, w)
	if err != nil {
		return carry.Layer{}, err
	}
	paths, err := b.pathsOut(ctx, w.id)
	if err != nil {
		return carry.Layer{}, err
	}
	l := carry.Layer{
		ID: w.id, DiffID: p.DiffID, Form: p.Encoding, Paths: paths,
		Blob: &carry.Blob{Digest: p.Digest, Size: p.Size, MediaType: p.MediaType},
	}
	meta, _ := b.store.LayerMeta(w.id)
	for _, form := range meta.Packed {
		if isPacking(form) {
			l.Packed = append(l.Packed, form)
		}
	}
	slices.SortFunc(l.Packed, func(a, b cache.Packed) int { return cmp.Compare(a.Encoding, b.Encoding) })
	return l, nil
}

// isPacking says whether a packed form is one that pack makes, and not a list of paths or the like.
func isPacking(p cache.Packed) bool { return strings.Contains(p.Encoding, ", times ") }

// packedOut is the blob of a layer: one that an image has, or had, in the wanted compression, else a new one. The blobs of
// images and of caches are the same, and a registry has them once.
func (o *carryOut) packedOut(ctx context.Context, w wantedLayer) (cache.Packed, error) {
	meta, _ := o.b.store.LayerMeta(w.id)
	slices.SortFunc(meta.Packed, func(a, b cache.Packed) int { return cmp.Compare(a.Encoding, b.Encoding) })
	for _, p := range meta.Packed {
		if strings.HasPrefix(p.Encoding, w.packing.compression().String()+", times ") && o.b.store.HasBlob(p.Digest, p.Size) {
			return p, nil
		}
	}
	return o.b.pack(ctx, w.layer, w.packing)
}

// formPaths marks the path index of a layer of our own among its packed forms.
const formPaths = "paths"

// packedPaths is how the path index of a layer is recorded.
func packedPaths(id digest.Digest, b carry.Blob) cache.Packed {
	return cache.Packed{Encoding: formPaths, DiffID: id, Digest: b.Digest, Size: b.Size, MediaType: b.MediaType}
}

// pathsOut is the path index of a layer that is here; it is made once.
func (b *build) pathsOut(ctx context.Context, id digest.Digest) (*carry.Blob, error) {
	meta, _ := b.store.LayerMeta(id)
	for _, p := range meta.Packed {
		if p.Encoding == formPaths && b.store.HasBlob(p.Digest, p.Size) {
			return &carry.Blob{Digest: p.Digest, Size: p.Size, MediaType: carry.MediaPaths}, nil
		}
	}
	dir, err := b.ownDir(ctx, id)
	if err != nil {
		return nil, err
	}
	raw, err := pathsBlob(ctx, dir)
	if err != nil {
		return nil, err
	}
	blob, err := b.keepSmall(raw, carry.MediaPaths)
	if err != nil {
		return nil, err
	}
	return blob, b.store.AddPacked(id, packedPaths(id, *blob))
}
