package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// exportMounts exports the requested cache mounts: those of this machine, and imported ones that no step has opened.
func (o *cacheExport) exportMounts(ctx context.Context, which remotecache.Mounts) error {
	seen := map[string]bool{}
	for _, n := range o.b.nodes {
		x, ok := n.op.(*execStep)
		if !ok || !o.steps[n] {
			continue
		}
		for _, m := range x.exec.GetMounts() {
			if m.GetMountType() != pb.MountType_CACHE || !which.Has(m.GetCacheOpt().GetID()) {
				continue
			}
			id, err := x.cacheID(ctx, m)
			if err != nil {
				return err
			}
			if seen[id] {
				continue
			}
			seen[id] = true
			if err := o.exportMount(ctx, id, x.seedTaint(m)); err != nil {
				return fmt.Errorf("cache mount %s: %w", id, err)
			}
		}
	}
	return nil
}

// exportMount exports one cache mount. seed are the remote caches on which its seed depends.
func (o *cacheExport) exportMount(ctx context.Context, id string, seed taint) error {
	m, err := o.b.seededMount(id, seed)
	if err != nil {
		return err
	}
	if m == nil {
		if l, ok := o.b.imports.mount(id); ok {
			o.index.Mounts = append(o.index.Mounts, remotecache.Mount{ID: id, Layer: l.Layer})
			o.from(l, l.Blob, l.Paths)
		}
		return nil
	}
	defer m.Release()
	before, err := pathsBlob(ctx, m.Dir)
	if err != nil {
		return err
	}
	l, err := o.packMount(ctx, m.Dir)
	if err != nil {
		return err
	}
	after, err := pathsBlob(ctx, m.Dir)
	if err != nil {
		return err
	}
	if !bytes.Equal(before, after) {
		return errors.New("its files changed while it was packed: skipped")
	}
	if l.Paths, err = o.b.keepSmall(after, remotecache.MediaPaths); err != nil {
		return err
	}
	o.index.Mounts = append(o.index.Mounts, remotecache.Mount{ID: id, Layer: l})
	return nil
}

// seededMount returns the cache mount that steps of this build use for an id, nil if there is none.
func (b *build) seededMount(id string, seed taint) (*cache.Mount, error) {
	of, _ := b.mountHere(id, seed)
	return b.store.SeededMount(filledName(id, of.by))
}

// packMount writes the blob of a cache mount.
func (o *cacheExport) packMount(ctx context.Context, dir string) (remotecache.Layer, error) {
	got, err := writePacked(o.b.store, func(w io.Writer) (layers.Packed, error) {
		return layers.Compress(ctx, dir, layers.PackOptions{}, layers.Compression{Algorithm: layers.Zstd}, w)
	})
	if err != nil {
		return remotecache.Layer{}, err
	}
	blob := &remotecache.Blob{Digest: got.Digest, Size: got.Size, MediaType: remotecache.MediaMount}
	return remotecache.Layer{DiffID: got.DiffID, Blob: blob}, nil
}

// pathsBlob returns the compressed path index of a directory.
func pathsBlob(ctx context.Context, dir string) ([]byte, error) {
	index, err := layerfs.IndexDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	raw, err := index.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return remotecache.Compress(raw)
}

// keepSmall stores a small blob.
func (b *build) keepSmall(raw []byte, mediaType string) (*remotecache.Blob, error) {
	d, err := b.store.PutBytes(raw)
	return &remotecache.Blob{Digest: d, Size: int64(len(raw)), MediaType: mediaType}, err
}
