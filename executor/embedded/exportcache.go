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

// cacheExports returns the remote caches that targets export to. Targets that name the same place share one cache.
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

// exportCaches writes remote caches. An error is a warning; it does not fail the build.
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

// cacheExport is the export to one remote cache, with the steps of the targets that name its place.
type cacheExport struct {
	b     *build
	place remotecache.Place
	// steps are the steps whose entries are exported. Their layers are exported if they are in all (mode=max) or in
	// shipped: the layers of an image.
	steps, all, shipped map[*node]bool
	index               remotecache.Index

	mu   sync.Mutex
	open map[digest.Digest]remotecache.Source // remote caches of blobs that are not on this machine
}

// add adds the steps of a target. A target without an image, which others use as a context, is exported with all
// layers.
func (o *cacheExport) add(target string, max bool) {
	var roots []*node
	for _, image := range o.b.graph.Images {
		if n := o.b.of(image.Root).node; n != nil && image.Target == target {
			roots = append(roots, n)
		}
	}
	if len(roots) == 0 {
		max = true
		other := func(n *node) bool { return !slices.Contains(n.step.Targets, target) }
		roots = slices.DeleteFunc(slices.Clone(o.b.nodes), other)
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

// allInputs returns the indices of all inputs.
func (n *node) allInputs() []int {
	all := make([]int, len(n.inputs))
	for i := range all {
		all[i] = i
	}
	return all
}

// withLayers reports whether the layers of a step are exported.
func (o *cacheExport) withLayers(n *node) bool { return o.all[n] || o.shipped[n] }

// packing returns how a layer without a blob is packed.
func (o *cacheExport) packing(n *node) packing {
	encoding := executor.LayerEncoding{Compression: string(o.place.Compression.Algorithm),
		Level: o.place.Compression.Level}
	return packing{encoding: encoding, epoch: o.epochOf(n)}
}

// export packs what is not packed yet and writes the cache. It retries without blobs that cannot be read.
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

// leaveBehind removes an unreadable blob from the index and reports whether it was there.
func (o *cacheExport) leaveBehind(d digest.Digest) bool {
	found := false
	is := func(b *remotecache.Blob) bool { return b != nil && b.Digest == d }
	for i, l := range o.index.Layers {
		if is(l.Blob) || is(l.Paths) {
			o.index.Layers[i], found = remotecache.Layer{ID: l.ID}, true
		}
	}
	before := len(o.index.Mounts)
	o.index.Mounts = slices.DeleteFunc(o.index.Mounts, func(m remotecache.Mount) bool {
		return is(m.Blob) || is(m.Paths)
	})
	return found || len(o.index.Mounts) < before
}

// write writes the collected cache.
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

// from records that blobs are in another remote cache and not on this machine.
func (o *cacheExport) from(l importedLayer, blobs ...*remotecache.Blob) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, blob := range blobs {
		if blob != nil {
			o.open[blob.Digest] = l.from
		}
	}
}

// openBlob opens a blob of the local store, or else of the remote cache that has it.
func (o *cacheExport) openBlob(ctx context.Context, blob remotecache.Blob) (io.ReadCloser, error) {
	if o.b.store.HasBlob(blob.Digest, blob.Size) {
		return os.Open(o.b.store.BlobPath(blob.Digest))
	}
	o.mu.Lock()
	from := o.open[blob.Digest]
	o.mu.Unlock()
	if from == nil {
		return nil, fmt.Errorf("blob %s was removed from the local cache", blob.Digest)
	}
	return from.Open(ctx, blob)
}

// exportedLayer is a layer of exported entries.
type exportedLayer struct {
	layer
	packing packing
	whole   bool
}

// collect builds the index and packs layers that have no blob yet.
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

// unique merges entries that several steps of a graph share.
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

// epochOf returns the epoch of the first image that has the layers of a step.
func (o *cacheExport) epochOf(n *node) int64 {
	for _, image := range o.b.graph.Images {
		if slices.Contains(n.step.Targets, image.Target) {
			return o.b.epoch(image).Unix()
		}
	}
	return executor.DefaultEpoch().Unix()
}

// exportedEntry returns the entry of a step for export, with the quick key of the step as an alias.
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
	case *baseImage: // the importing machine finds the manifest itself
		e.Lookups, e.Created, e.Outputs = nil, e.Created.Truncate(0), nil
		return e, len(e.Selections) > 0
	}
	if k != nil && k.quickKey != "" && k.quickKey != e.Key {
		e.Aliases = []digest.Digest{k.quickKey}
	}
	return e, true
}
