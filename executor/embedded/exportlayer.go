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

// exportLayer is a layer as it travels: one that came from elsewhere and is not here goes on as it is.
func (o *cacheExport) exportLayer(ctx context.Context, w exportedLayer) (remotecache.Layer, error) {
	b := o.b
	if !w.whole {
		return remotecache.Layer{ID: w.id}, nil
	}
	if _, here := b.store.LayerDir(w.id); !here {
		if l, ok := b.imports.layer(w.id); ok {
			o.from(l, l.Blob, l.Paths)
			return l.Layer, nil
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
		ID: w.id, DiffID: p.DiffID, Encoding: p.Encoding, Paths: paths,
		Blob: &remotecache.Blob{Digest: p.Digest, Size: p.Size, MediaType: p.MediaType},
	}
	meta, _ := b.store.LayerMeta(w.id)
	for _, known := range meta.Packed {
		if isPacking(known) {
			l.Packed = append(l.Packed, known)
		}
	}
	slices.SortFunc(l.Packed, func(a, b cache.Packed) int { return cmp.Compare(a.Encoding, b.Encoding) })
	return l, nil
}

// isPacking says whether a packed form is one that pack makes, and not a list of paths or the like.
func isPacking(p cache.Packed) bool { return strings.Contains(p.Encoding, ", times ") }

// exportBlob is the blob of a layer: one that an image has, or had, in the found compression, else a new one. The blobs of
// images and of caches are the same, and a registry has them once.
func (o *cacheExport) exportBlob(ctx context.Context, w exportedLayer) (cache.Packed, error) {
	meta, _ := o.b.store.LayerMeta(w.id)
	slices.SortFunc(meta.Packed, func(a, b cache.Packed) int { return cmp.Compare(a.Encoding, b.Encoding) })
	for _, p := range meta.Packed {
		if strings.HasPrefix(p.Encoding, w.packing.compression().String()+", times ") && o.b.store.HasBlob(p.Digest, p.Size) {
			return p, nil
		}
	}
	return o.b.pack(ctx, w.layer, w.packing)
}

// encodingPaths marks the path index of a layer of our own among its packed forms.
const encodingPaths = "paths"

// packedPaths is how the path index of a layer is recorded.
func packedPaths(id digest.Digest, b remotecache.Blob) cache.Packed {
	return cache.Packed{Encoding: encodingPaths, DiffID: id, Digest: b.Digest, Size: b.Size, MediaType: b.MediaType}
}

// exportPaths is the path index of a layer that is here; it is made once.
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
