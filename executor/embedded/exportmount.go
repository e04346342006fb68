package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/buildkit/solver/pb"

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

// exportMount exports one cache mount, the one that steps of this build use for the id. seed are the remote caches on
// which its seed depends.
func (o *cacheExport) exportMount(ctx context.Context, id string, seed taint) error {
	of, _ := o.b.mountHere(id, seed)
	m, err := o.b.store.SeededMount(filledName(id, of.by))
	if err != nil {
		return err
	}
	if m == nil {
		l, ok := o.b.imports.mount(id)
		if of.from != nil {
			o.b.imports.load()
			l, ok = of.from.mount(id)
		}
		if ok {
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

// pathsBlob returns the compressed path index of a directory, with the attributes that its tar has: who imports it
// compares the two.
func pathsBlob(ctx context.Context, dir string) ([]byte, error) {
	index, err := layerfs.IndexDir(ctx, dir, layers.Packs)
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
