package embedded

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
)

// packing is how layers of steps are written as blobs.
type packing struct {
	encoding executor.LayerEncoding
	// epoch is the time to which times are set or clamped, in seconds since 1970.
	epoch int64
}

// times returns the treatment of a layer's times. Times of files from contexts are set, because no key contains them;
// times of files written by commands are only clamped.
func (p packing) times(ran bool) layers.PackOptions {
	if p.encoding.KeepTimes {
		return layers.PackOptions{}
	}
	return layers.PackOptions{Epoch: time.Unix(p.epoch, 0).UTC(), Clamp: ran || p.encoding.ClampTimes}
}

// How the name of an encoding describes times. The names are stored.
const (
	timesKept    = "times kept"
	timesClamped = "times clamped to "
	timesSet     = "times set to "
)

// tar names what the uncompressed layer depends on.
func (p packing) tar(ran bool) string {
	switch t := p.times(ran); {
	case t.Epoch.IsZero():
		return timesKept
	case t.Clamp:
		return fmt.Sprint(timesClamped, p.epoch)
	}
	return fmt.Sprint(timesSet, p.epoch)
}

// compression returns the compression of the blob.
func (p packing) compression() layers.Compression {
	return layers.Compression{Algorithm: layers.Algorithm(p.encoding.Compression), Level: p.encoding.Level}
}

// name returns different names for packings that give different bytes of one layer. It is stored as the encoding.
func (p packing) name(ran bool) string { return p.compression().String() + ", " + p.tar(ran) }

// pack returns the blob of a step's layer and writes it if the store has none. The blob of an imported layer may be
// known without being on this machine; fetchPacked gets it.
func (b *build) pack(ctx context.Context, l layer, p packing) (cache.Packed, error) {
	name := p.name(l.ran)
	key := packKey{l.id, name}
	if known, ok := b.packs.Load(key); ok {
		return known.(cache.Packed), nil
	}
	v, err := b.onceValue(ctx, "pack "+l.id.String()+" "+name, func() (any, error) {
		if found, ok := b.packed(l.id, name); ok {
			return found, nil
		}
		if found, ok := b.importedPacked(l.id, name); ok {
			return found, nil
		}
		unlock, err := b.store.Lock(ctx, digest.FromString("pack "+l.id.String()+" "+name))
		if err != nil {
			return cache.Packed{}, err
		}
		defer unlock()
		if found, ok := b.packed(l.id, name); ok {
			return found, nil
		}
		return b.compress(ctx, l, p, name)
	})
	if err != nil {
		return cache.Packed{}, fmt.Errorf("pack layer %s: %w", l.id, err)
	}
	b.packs.Store(key, v)
	return v.(cache.Packed), nil
}

// packKey identifies a layer in one packing, in build.packs.
type packKey struct {
	id   digest.Digest
	name string
}

// packed returns a blob that was written before.
func (b *build) packed(id digest.Digest, name string) (cache.Packed, bool) {
	return findPacked(b.store, id, name)
}

// compress writes the blob of a layer. If its diff id differs from a recorded one, the directory was damaged since,
// and the blob is discarded.
func (b *build) compress(ctx context.Context, l layer, p packing, name string) (cache.Packed, error) {
	dir, err := b.ownDir(ctx, l.id)
	if err != nil {
		return cache.Packed{}, err
	}
	out, err := writePacked(b.store, func(w io.Writer) (layers.Packed, error) {
		got, err := layers.Compress(ctx, dir, p.times(l.ran), p.compression(), w)
		if err == nil {
			err = b.sameContent(l, p, got.DiffID)
		}
		return got, err
	})
	if err != nil {
		return cache.Packed{}, err
	}
	out.Encoding = name
	return out, b.store.AddPacked(l.id, out)
}

// sameContent compares a diff id with those recorded for the same times.
func (b *build) sameContent(l layer, p packing, got digest.Digest) error {
	meta, _ := b.store.LayerMeta(l.id)
	for _, old := range meta.Packed {
		if strings.HasSuffix(old.Encoding, ", "+p.tar(l.ran)) && old.DiffID != got {
			return fmt.Errorf("its files have changed since it was created (diff id %s, now %s): prune the cache",
				old.DiffID, got)
		}
	}
	return nil
}
