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
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
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
				b: b, place: to.place, open: map[digest.Digest]*source{},
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
	left                int // entries that are too large for an import

	mu   sync.Mutex
	open map[digest.Digest]*source // remote caches of blobs that are not on this machine
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
	if o.left > 0 {
		o.b.imports.warn(fmt.Sprintf("the cache %s lacks %d of %d steps, which have more files or longer texts than "+
			"an import accepts; they run again where the cache is imported", to, o.left, len(o.steps)))
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
		if !o.steps[n] {
			continue
		}
		e, ok, err := n.exportedEntry(ctx)
		if err != nil {
			return err
		}
		if e.Shorten(); ok && e.Fits() != nil { // one that no import takes would make the whole index useless
			o.left++
			continue
		}
		if !ok {
			continue
		}
		o.index.Entries = append(o.index.Entries, e)
		if h, ok := n.op.(*httpStep); ok {
			key := h.lastAnswer()
			answer, _, err := o.b.entry(bothKeys{own: key, portable: key}, noOutputs)
			if err == nil && answer != nil {
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
	if err := g.Wait(); err != nil {
		return err
	}
	o.renameLayers(ids)
	return nil
}

// renameLayers gives the layers of entries the names that they have in the index. ids are the ids of index.Layers here.
// Layers of one content, which several steps made, are one layer there.
func (o *cacheExport) renameLayers(ids []digest.Digest) {
	names := make(map[digest.Digest]digest.Digest, len(ids))
	for i, id := range ids {
		names[id] = o.index.Layers[i].ID
	}
	for i := range o.index.Entries {
		outputs := o.index.Entries[i].Outputs
		o.index.Entries[i].Outputs = make([]cache.Output, len(outputs))
		for k, out := range outputs {
			parts := slices.Clone(out.Parts)
			for j, p := range parts {
				if name, ok := names[p.Layer]; ok {
					parts[j].Layer = name
				}
			}
			o.index.Entries[i].Outputs[k].Parts = parts
		}
		if outputs == nil {
			o.index.Entries[i].Outputs = nil
		}
	}
	slices.SortStableFunc(o.index.Layers, func(a, b remotecache.Layer) int { return cmp.Compare(a.ID, b.ID) })
	o.index.Layers = slices.CompactFunc(o.index.Layers, func(a, b remotecache.Layer) bool { return a.ID == b.ID })
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

// exportedEntry returns the entry of a step for export, with its portable ids and keys, and the quick key of the step
// as an alias. What a remote cache claimed is exported as this build took it: importing it means trusting this build.
func (n *node) exportedEntry(ctx context.Context) (remotecache.Entry, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.entry == nil {
		return remotecache.Entry{}, false, nil
	}
	e := remotecache.Entry{Entry: *n.entry}
	if _, ok := n.op.(*baseImage); ok { // the importing machine finds the manifest itself
		e.Lookups, e.Created, e.Outputs = nil, e.Created.Truncate(0), nil
		return e, len(e.Selections) > 0, nil
	}
	if _, ok := n.op.(*linkMerge); ok && n.from == nil {
		e.ID, e.Key = n.portable, n.portable
	}
	k := n.keys()
	if k == nil {
		return e, true, nil
	}
	if n.from == nil && len(e.Inputs) > 0 {
		parts, err := k.portableParts(ctx, e.Inputs)
		if err != nil {
			return e, false, err
		}
		e.ID, e.Inputs, e.Key = n.portable, parts, key.Of(parts)
	}
	if k.quickPortable != "" && k.quickPortable != e.Key {
		e.Aliases = []digest.Digest{k.quickPortable}
	}
	return e, true, nil
}
