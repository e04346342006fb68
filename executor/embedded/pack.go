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

// packing says how layers of our own are written as blobs.
type packing struct {
	encoding executor.LayerForm
	// epoch is what times are set or clamped to, in seconds since 1970.
	epoch int64
}

// times is what a packing does to the times of a layer. Files of contexts lose theirs, since no key holds them; what a
// command wrote is only clamped.
func (p packing) times(ran bool) layers.PackOptions {
	if p.encoding.KeepTimes {
		return layers.PackOptions{}
	}
	return layers.PackOptions{Epoch: time.Unix(p.epoch, 0).UTC(), Clamp: ran || p.encoding.ClampTimes}
}

// How the name of a form says what was done to times.
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

// compression is the form of the blob.
func (p packing) compression() layers.Form {
	return layers.Form{Algorithm: layers.Algorithm(p.encoding.Compression), Level: p.encoding.Level}
}

// name tells packings apart that give different bytes of one layer.
func (p packing) name(ran bool) string { return p.compression().String() + ", " + p.tar(ran) }

// pack gives the blob of a layer of our own, and makes it when the store has none. Each is made once, whoever asks. The blob
// of a layer from elsewhere may be known and not here: fetchPacked brings it.
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

// packKey names one layer in one packing, in build.packs.
type packKey struct {
	id   digest.Digest
	name string
}

// packed finds a blob that was made before.
func (b *build) packed(id digest.Digest, name string) (cache.Packed, bool) {
	return findPacked(b.store, id, name)
}

// compress writes the blob of a layer. Where its diff id was recorded before and is another one now, the directory was
// damaged since, and the blob is not kept.
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

// sameContent compares a diff id with those that were recorded for the same times.
func (b *build) sameContent(l layer, p packing, got digest.Digest) error {
	meta, _ := b.store.LayerMeta(l.id)
	for _, old := range meta.Packed {
		if strings.HasSuffix(old.Encoding, ", "+p.tar(l.ran)) && old.DiffID != got {
			return fmt.Errorf("its files were changed since it was made (diff id %s, then %s): prune the cache", old.DiffID, got)
		}
	}
	return nil
}
