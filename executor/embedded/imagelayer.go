package embedded

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/planner"
)

// emptyTar is the size of an archive without entries, in zero bytes.
const emptyTar = 1024

// imageLayers returns the layers of an image, bottom first. A step that changed nothing has an empty layer, as in
// BuildKit. Layers of steps are packed if they are not yet; layers of a base stay as they are unless another
// compression is forced.
func (b *build) imageLayers(ctx context.Context, image *planner.Image, p packing) ([]v1.Layer, error) {
	c, err := b.of(image.Root).chain(ctx)
	if err != nil {
		return nil, err
	}
	all, err := c.layers(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]v1.Layer, len(all))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(b.transfers))
	for i, l := range all {
		switch {
		case l.base != nil && !p.encoding.Force:
			out[i] = &baseBlob{ctx: ctx, layer: l.base}
		default:
			g.Go(func() error {
				got, err := b.packedLayer(gctx, l, p)
				b.noteClaimed(l, got)
				out[i] = &storedBlob{b.store, got, func() error { return b.fetchPacked(ctx, l, p, got) }}
				return err
			})
		}
	}
	return out, g.Wait()
}

// packedLayer returns a layer packed, and packs it if necessary.
func (b *build) packedLayer(ctx context.Context, l layer, p packing) (cache.Packed, error) {
	pack := b.pack
	switch {
	case l.base != nil:
		pack = func(ctx context.Context, l layer, p packing) (cache.Packed, error) {
			return b.repack(ctx, l.id, p, l.base.stream)
		}
	case l.id == emptyLayer:
		pack = func(ctx context.Context, l layer, p packing) (cache.Packed, error) {
			return b.repack(ctx, l.id, p, streamEmpty)
		}
	}
	return pack(ctx, l, p)
}

// streamEmpty passes an archive without entries to use.
func streamEmpty(ctx context.Context, use func(context.Context, io.Reader, func()) error) error {
	return use(ctx, bytes.NewReader(make([]byte, emptyTar)), func() {})
}

// repack compresses the tar that stream reads, of a base layer or of the empty layer. The bytes of the tar stay.
func (b *build) repack(
	ctx context.Context, id digest.Digest, p packing,
	stream func(context.Context, func(context.Context, io.Reader, func()) error) error,
) (cache.Packed, error) {
	name := p.compression().String() + ", of a base"
	v, err := b.onceValue(ctx, "repack "+id.String()+" "+name, func() (any, error) {
		if found, ok := b.packed(id, name); ok {
			return found, nil
		}
		var out cache.Packed
		err := stream(ctx, func(ctx context.Context, r io.Reader, _ func()) error {
			var err error
			out, err = writePacked(b.store, func(w io.Writer) (layers.Packed, error) {
				got, err := layers.Recompress(ctx, r, p.compression(), w)
				if err == nil && got.DiffID != id {
					err = errMismatch(id, got.DiffID)
				}
				return got, err
			})
			out.Encoding = name
			return err
		})
		if err != nil {
			return out, err
		}
		return out, b.store.AddPacked(id, out)
	})
	if err != nil {
		return cache.Packed{}, fmt.Errorf("pack layer %s: %w", id, err)
	}
	return v.(cache.Packed), nil
}

// storedBlob is a layer whose blob is in the store.
type storedBlob struct {
	store *cache.Store
	p     cache.Packed
	fetch func() error // gets the blob if it is not in the store yet
}

// Digest implements v1.Layer.
func (s *storedBlob) Digest() (v1.Hash, error) { return hashOf(s.p.Digest) }

// DiffID returns the digest of the tar.
func (s *storedBlob) DiffID() (v1.Hash, error) { return hashOf(s.p.DiffID) }

// Size returns the size of the blob in bytes.
func (s *storedBlob) Size() (int64, error) { return s.p.Size, nil }

// MediaType returns the OCI media type.
func (s *storedBlob) MediaType() (types.MediaType, error) { return types.MediaType(s.p.MediaType), nil }

// Compressed opens the blob.
func (s *storedBlob) Compressed() (io.ReadCloser, error) {
	if err := s.fetch(); err != nil {
		return nil, err
	}
	return os.Open(s.store.BlobPath(s.p.Digest))
}

// Uncompressed opens the tar.
func (s *storedBlob) Uncompressed() (io.ReadCloser, error) { return uncompressed(s.Compressed()) }

// baseBlob is a layer of a base. Its blob is fetched when its bytes are read.
type baseBlob struct {
	ctx   context.Context // of the export that the layer is part of
	layer *baseLayer
}

// Digest implements v1.Layer.
func (l *baseBlob) Digest() (v1.Hash, error) { return hashOf(l.layer.desc.Digest) }

// DiffID returns the digest of the tar.
func (l *baseBlob) DiffID() (v1.Hash, error) { return hashOf(l.layer.DiffID) }

// Size returns the size of the blob in bytes.
func (l *baseBlob) Size() (int64, error) { return l.layer.desc.Size, nil }

// MediaType returns the media type that the registry reports.
func (l *baseBlob) MediaType() (types.MediaType, error) {
	return types.MediaType(l.layer.desc.MediaType), nil
}

// Compressed opens the blob.
func (l *baseBlob) Compressed() (io.ReadCloser, error) {
	if err := l.layer.fetch(l.ctx); err != nil {
		return nil, err
	}
	return os.Open(l.layer.base.n.b.store.BlobPath(l.layer.desc.Digest))
}

// Uncompressed opens the tar.
func (l *baseBlob) Uncompressed() (io.ReadCloser, error) { return uncompressed(l.Compressed()) }

func hashOf(d digest.Digest) (v1.Hash, error) { return v1.NewHash(d.String()) }
