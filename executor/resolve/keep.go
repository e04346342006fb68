package resolve

import (
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/images"
	"github.com/bakebuild/bake/executor/registry"
)

// Keep stores the documents of a base and records its name. Its layers are fetched when a step needs them.
func (r *Resolver) Keep(resolved registry.Resolved) error {
	for _, raw := range [][]byte{resolved.Config, resolved.Manifest.Raw, resolved.Index} {
		if raw == nil {
			continue
		}
		if _, err := r.store.PutBytes(raw); err != nil {
			return err
		}
	}
	name, pinned := images.SplitDigest(resolved.Ref)
	size := len(resolved.Manifest.Raw)
	if resolved.Index != nil {
		size = len(resolved.Index)
	}
	image := cache.Image{
		Name: name, Digest: resolved.Digest, MediaType: resolved.MediaType, Size: int64(size), Kind: cache.KindBase,
		Recorded: r.now().UTC(),
	}
	if pinned == "" {
		return r.store.PutImages([]cache.Image{image})
	}
	return r.keepPinned(image, pinned)
}

// keepPinned records a base that was requested by digest. A digest does not determine what its tag names now. So the
// tag is recorded only if it has no record, and with a time so old that ResolveImage asks the registry before using the
// tag.
func (r *Resolver) keepPinned(image cache.Image, d digest.Digest) error {
	tagged := image
	image.Name += "@" + d.String()
	records := []cache.Image{image}
	_, known, err := r.store.Image(tagged.Name)
	if err != nil {
		return err
	}
	if !known && !images.IsNameOnly(tagged.Name) {
		tagged.Recorded = time.Unix(0, 0).UTC()
		records = append(records, tagged)
	}
	return r.store.PutImages(records)
}
