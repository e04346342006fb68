package embedded

import (
	"cmp"
	"context"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// exportLayer returns a layer for export. An imported layer that was never unpacked here is exported as it is.
func (o *cacheExport) exportLayer(ctx context.Context, w exportedLayer) (remotecache.Layer, error) {
	b := o.b
	if !w.whole {
		return remotecache.Layer{ID: w.id}, nil
	}
	if !b.store.HasLayer(w.id) {
		if l, ok := b.imports.layer(w.id); ok {
			o.from(l, l.Blob, l.Paths)
			return exported(l.Layer), nil
		}
	}
	p, err := o.exportBlob(ctx, w)
	if err != nil {
		return remotecache.Layer{}, err
	}
	paths, err := b.exportPaths(ctx, w.id)
	if err != nil {
		return remotecache.Layer{}, err
	}
	l := remotecache.Layer{
		DiffID: p.DiffID, Encoding: p.Encoding, Paths: paths,
		Blob: &remotecache.Blob{Digest: p.Digest, Size: p.Size, MediaType: p.MediaType},
	}
	l.ID = contentID(&l)
	meta, _ := b.store.LayerMeta(w.id)
	for _, known := range meta.Packed {
		if isPacking(known) {
			l.Packed = append(l.Packed, known)
		}
	}
	slices.SortFunc(l.Packed, func(a, b cache.Packed) int { return cmp.Compare(a.Encoding, b.Encoding) })
	return l, nil
}

// exported returns an imported layer for another export. Its name follows from its content, as that of all layers with
// a blob. A layer without one keeps its name.
func exported(l remotecache.Layer) remotecache.Layer {
	if l.Blob != nil && l.Paths != nil {
		l.ID = contentID(&l)
	}
	return l
}

// isPacking reports whether a packed layer was written by pack; others are path indexes and the like.
func isPacking(p cache.Packed) bool { return strings.Contains(p.Encoding, ", times ") }

// exportBlob returns the blob of a layer in the requested compression: the blob of an image if there is one,
// otherwise a new one. Images and caches use the same blobs, so a registry stores them once.
func (o *cacheExport) exportBlob(ctx context.Context, w exportedLayer) (cache.Packed, error) {
	meta, _ := o.b.store.LayerMeta(w.id)
	slices.SortFunc(meta.Packed, func(a, b cache.Packed) int { return cmp.Compare(a.Encoding, b.Encoding) })
	for _, p := range meta.Packed {
		same := strings.HasPrefix(p.Encoding, w.packing.compression().String()+", times ")
		if same && o.b.store.HasBlob(p.Digest, p.Size) {
			return p, nil
		}
	}
	return o.b.pack(ctx, w.layer, w.packing)
}

// encodingPaths is the encoding under which the path index of a layer is recorded. Under "paths" an earlier version
// recorded attributes that the layer's tar does not have.
const encodingPaths = "paths 2"

// packedPaths returns the record of a layer's path index.
func packedPaths(id digest.Digest, b remotecache.Blob) cache.Packed {
	return cache.Packed{Encoding: encodingPaths, DiffID: id, Digest: b.Digest, Size: b.Size, MediaType: b.MediaType}
}

// exportPaths returns the path index of a layer on this machine; it is written once.
func (b *build) exportPaths(ctx context.Context, id digest.Digest) (*remotecache.Blob, error) {
	meta, _ := b.store.LayerMeta(id)
	for _, p := range meta.Packed {
		if p.Encoding == encodingPaths && b.store.HasBlob(p.Digest, p.Size) {
			return &remotecache.Blob{Digest: p.Digest, Size: p.Size, MediaType: remotecache.MediaPaths}, nil
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
	blob, err := b.keepSmall(raw, remotecache.MediaPaths)
	if err != nil {
		return nil, err
	}
	return blob, b.store.AddPacked(id, packedPaths(id, *blob))
}
