package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/carry"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/embedded/layers"
)

// fillMount fills a new cache mount with what a cache from elsewhere has for it. One that cannot be had stays empty.
func (b *build) fillMount(ctx context.Context, id string, m *cache.Mount) (filled bool, err error) {
	l, ok := b.carried.mount(id)
	if !ok {
		return false, nil
	}
	index, err := b.readPaths(ctx, l)
	if err == nil {
		_, err = b.unpackInto(ctx, l, index, m.Dir)
	}
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	}
	b.carried.warn(fmt.Sprintf("the cache mount %s of the cache %s begins empty: %v", id, l.from, err))
	return false, clearDir(m.Dir)
}

// clearDir empties a directory of this process.
func clearDir(dir string) error {
	names, err := os.ReadDir(dir)
	for _, n := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, n.Name())))
	}
	return errors.Join(err, os.Chmod(dir, 0o755))
}

// mountsOut are the cache mounts of steps that an export asks for: those of this machine, else those that came from
// elsewhere and that no step has opened.
func (o *carryOut) mountsOut(ctx context.Context, which carry.Mounts) error {
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
			if err := o.mountOut(ctx, id); err != nil {
				return fmt.Errorf("cache mount %s: %w", id, err)
			}
		}
	}
	return nil
}

func (o *carryOut) mountOut(ctx context.Context, id string) error {
	m, err := o.b.store.SeededMount(id)
	if err != nil {
		return err
	}
	if m == nil {
		if l, ok := o.b.carried.mount(id); ok {
			o.index.Mounts = append(o.index.Mounts, carry.Mount{ID: id, Layer: l.Layer})
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
		return errors.New("something writes to it: it is left out")
	}
	if l.Paths, err = o.b.keepSmall(after, carry.MediaPaths); err != nil {
		return err
	}
	o.index.Mounts = append(o.index.Mounts, carry.Mount{ID: id, Layer: l})
	return nil
}

// packMount makes the blob of a cache mount.
func (o *carryOut) packMount(ctx context.Context, dir string) (carry.Layer, error) {
	got, err := writePacked(o.b.store, func(w io.Writer) (layers.Packed, error) {
		return layers.Compress(ctx, dir, layers.PackOptions{}, layers.Form{Algorithm: layers.Zstd}, w)
	})
	if err != nil {
		return carry.Layer{}, err
	}
	return carry.Layer{DiffID: got.DiffID, Blob: &carry.Blob{Digest: got.Digest, Size: got.Size, MediaType: carry.MediaMount}}, nil
}

// pathsBlob is the path index of a directory form as it travels.
func pathsBlob(ctx context.Context, dir string) ([]byte, error) {
	index, err := layerfs.IndexDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	raw, err := index.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return carry.Squeeze(raw)
}

// keepSmall keeps a blob of this machine's making.
func (b *build) keepSmall(raw []byte, mediaType string) (*carry.Blob, error) {
	d, err := b.store.PutBytes(raw)
	return &carry.Blob{Digest: d, Size: int64(len(raw)), MediaType: mediaType}, err
}
