package embedded

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// cacheExports are the caches that targets ask for. Several targets that name one place have one cache there.
func (b *build) cacheExports() []*cacheExport {
	var exports []*cacheExport
	for _, to := range b.imports.exports {
		i := slices.IndexFunc(exports, func(o *cacheExport) bool { return o.place.Same(to.place) })
		if i < 0 {
			i = len(exports)
			exports = append(exports, &cacheExport{
				b: b, place: to.place, open: map[digest.Digest]remotecache.Source{},
				steps: map[*node]bool{}, all: map[*node]bool{}, shipped: map[*node]bool{},
			})
		}
		exports[i].place.Mounts = exports[i].place.Mounts.With(to.place.Mounts)
		exports[i].add(to.target, to.place.Max)
	}
	return exports
}

// exportCaches writes caches. What goes wrong is said, and no fault of the build.
func (b *build) exportCaches(ctx context.Context, exports []*cacheExport) {
	for _, o := range exports {
		to := o.place.Destination(b.engine.client)
		a := b.events.begin("export cache to " + to.String())
		err := o.export(ctx, to, a)
		if err != nil && ctx.Err() == nil {
			b.imports.warn(fmt.Sprintf("the cache %s is not written: %v", to, err))
		}
		a.end(nil)
	}
}

// cacheExport is one cache that is written: the steps of the targets that name its place.
type cacheExport struct {
	b     *build
	place remotecache.Place
	// steps are the steps whose entries go along. Their layers do where they are in all, which is mode=max, or in shipped:
	// the layers that an image has.
	steps, all, shipped map[*node]bool
	index               remotecache.Index

	mu   sync.Mutex
	open map[digest.Digest]remotecache.Source // blobs that are in a cache from elsewhere and not here
}

// add adds the steps of a target; one that others link to, and that has no image of its own, with all their layers.
func (o *cacheExport) add(target string, max bool) {
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
		reach(o.steps, n, (*node).allInputs)
		if max {
			reach(o.all, n, (*node).allInputs)
		} else {
			reach(o.shipped, n, (*node).layerInputs)
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

// allInputs are all inputs of a node.
func (n *node) allInputs() []int {
	all := make([]int, len(n.inputs))
	for i := range all {
		all[i] = i
	}
	return all
}

// withLayers says whether the layers of a step go along.
func (o *cacheExport) withLayers(n *node) bool { return o.all[n] || o.shipped[n] }

// packing is how a layer that has no blob yet becomes one.
func (o *cacheExport) packing(n *node) packing {
	encoding := executor.LayerForm{Compression: string(o.place.Compression.Algorithm), Level: o.place.Compression.Level}
	return packing{encoding: encoding, epoch: o.epochOf(n)}
}

// export packs what is missing and writes the cache.
func (o *cacheExport) export(ctx context.Context, to remotecache.Destination, a *activity) error {
	if err := o.collect(ctx); err != nil {
		return err
	}
	if err := o.exportMounts(ctx, o.place.Mounts); err != nil {
		o.b.imports.warn(fmt.Sprintf("the cache %s: %v", to, err))
	}
	for {
		err := o.write(ctx, to, a)
		if bad, ok := remotecache.Unusable(err); !ok || !o.leaveBehind(bad) {
			return err
		}
	}
}

// leaveBehind takes a blob that cannot be had out of the index, and says whether it was there.
func (o *cacheExport) leaveBehind(d digest.Digest) bool {
	found := false
	is := func(b *remotecache.Blob) bool { return b != nil && b.Digest == d }
	for i, l := range o.index.Layers {
		if is(l.Blob) || is(l.Paths) {
			o.index.Layers[i], found = remotecache.Layer{ID: l.ID}, true
		}
	}
	before := len(o.index.Mounts)
	o.index.Mounts = slices.DeleteFunc(o.index.Mounts, func(m remotecache.Mount) bool { return is(m.Blob) || is(m.Paths) })
	return found || len(o.index.Mounts) < before
}

// write writes the cache as it is collected.
func (o *cacheExport) write(ctx context.Context, to remotecache.Destination, a *activity) error {
	return to.Export(ctx, remotecache.Export{
		Index: &o.index, Distrust: o.b.imports.distrusts,
		Open: func(ctx context.Context, blob remotecache.Blob) (io.ReadCloser, error) {
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
func (o *cacheExport) from(l importedLayer, blobs ...*remotecache.Blob) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, blob := range blobs {
		if blob != nil {
			o.open[blob.Digest] = l.from
		}
	}
}

func (o *cacheExport) openBlob(ctx context.Context, blob remotecache.Blob) (io.ReadCloser, error) {
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

// exportedLayer is a layer that entries lead to.
type exportedLayer struct {
	layer
	packing packing
	whole   bool
}

// collect makes the index, and packs layers that have no blob yet.
func (o *cacheExport) collect(ctx context.Context) error {
	found := map[digest.Digest]exportedLayer{}
	var ids []digest.Digest
	for _, n := range o.b.nodes {
		e, ok := n.exportedEntry()
		if !ok || !o.steps[n] {
			continue
		}
		o.index.Entries = append(o.index.Entries, e)
		if h, ok := n.op.(*httpStep); ok {
			if answer, _, err := o.b.entry(h.lastAnswer()); err == nil && answer != nil {
				o.index.Entries = append(o.index.Entries, remotecache.Entry{Entry: *answer})
			}
		}
		_, ran := n.op.(*execStep)
		for _, id := range n.ownLayers() {
			w, seen := found[id]
			if !seen {
				ids = append(ids, id)
				w = exportedLayer{layer: layer{id: id, ran: ran}, packing: o.packing(n)}
			}
			w.whole = w.whole || o.withLayers(n)
			found[id] = w
		}
	}
	o.index.Entries = unique(o.index.Entries)
	o.index.Layers = make([]remotecache.Layer, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxTransfers)
	for i, id := range ids {
		g.Go(func() (err error) {
			o.index.Layers[i], err = o.exportLayer(ctx, found[id])
			return err
		})
	}
	return g.Wait()
}

// unique drops entries that several steps of a graph share.
func unique(all []remotecache.Entry) []remotecache.Entry {
	slices.SortStableFunc(all, func(a, b remotecache.Entry) int { return cmp.Compare(a.Key, b.Key) })
	var out []remotecache.Entry
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
func (o *cacheExport) epochOf(n *node) int64 {
	for _, image := range o.b.graph.Images {
		if slices.Contains(n.step.Targets, image.Target) {
			return o.b.epoch(image).Unix()
		}
	}
	return executor.DefaultEpoch().Unix()
}

// exportedEntry is the entry of a step as it travels, with the quick key under which the step was looked up.
func (n *node) exportedEntry() (remotecache.Entry, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.entry == nil {
		return remotecache.Entry{}, false
	}
	e := remotecache.Entry{Entry: *n.entry}
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
