package embedded

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
)

// Recompress returns a layer of the store in the compression of an output, with no time after the epoch unless epoch
// is zero. Each variant is written once; the store records it. The command calls it for layers that a BuildKit daemon
// built.
func Recompress(ctx context.Context, s *cache.Store, from cache.Packed, f executor.LayerEncoding,
	epoch time.Time) (cache.Packed, error) {
	encoding := layers.Compression{Algorithm: layers.Algorithm(f.Compression), Level: f.Level}
	if epoch.IsZero() && encoding.MediaType() == from.MediaType && f.Level == 0 && !f.Force {
		return from, nil
	}
	name := encoding.String() + ", of its tar"
	if !epoch.IsZero() {
		name = fmt.Sprintf("%s, of its tar with times clamped to %d", encoding, epoch.Unix())
	}
	if found, ok := findPacked(s, from.DiffID, name); ok {
		return found, nil
	}
	unlock, err := s.Lock(ctx, digest.FromString("pack "+from.DiffID.String()+" "+name))
	if err != nil {
		return cache.Packed{}, err
	}
	defer unlock()
	if found, ok := findPacked(s, from.DiffID, name); ok {
		return found, nil
	}
	out, err := rewrite(ctx, s, from.Digest, encoding, epoch)
	if err != nil {
		return cache.Packed{}, fmt.Errorf("pack layer %s: %w", from.Digest, err)
	}
	out.Encoding = name
	return out, s.AddPacked(from.DiffID, out)
}

// rewrite stores a blob in another compression.
func rewrite(ctx context.Context, s *cache.Store, from digest.Digest, encoding layers.Compression,
	epoch time.Time) (cache.Packed, error) {
	blob, err := os.Open(s.BlobPath(from))
	if err != nil {
		return cache.Packed{}, err
	}
	defer blob.Close()
	return writePacked(s, func(w io.Writer) (layers.Packed, error) {
		if epoch.IsZero() {
			return layers.Recompress(ctx, blob, encoding, w)
		}
		return layers.Rewrite(ctx, blob, encoding, w, func(from io.Reader, to io.Writer) error {
			return executor.ClampTimes(from, to, epoch)
		})
	})
}

// findPacked returns an encoding of a layer that was written before, with its blob.
func findPacked(s *cache.Store, id digest.Digest, encoding string) (cache.Packed, bool) {
	meta, _ := s.LayerMeta(id)
	for _, p := range meta.Packed {
		if p.Encoding == encoding && s.HasBlob(p.Digest, p.Size) {
			return p, true
		}
	}
	return cache.Packed{}, false
}

// writePacked stores the packed layer that write writes. Nothing is stored where write returns an error.
func writePacked(s *cache.Store, write func(io.Writer) (layers.Packed, error)) (out cache.Packed, err error) {
	_, _, err = s.WriteBlob(func(w io.Writer) (digest.Digest, int64, error) {
		got, err := write(w)
		out = cache.Packed{DiffID: got.DiffID, Digest: got.Digest, Size: got.Size, MediaType: got.MediaType}
		return got.Digest, got.Size, err
	})
	if err != nil {
		return cache.Packed{}, err
	}
	return out, nil
}
