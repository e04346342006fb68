package main

import (
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/registry"
)

// storedContent is an image of the local store with all its blobs, ready to be sent under its own name; of an index only
// one platform, if one is asked for.
func storedContent(s *cache.Store, name string, only *ocispecs.Platform) (registry.PushImage, digest.Digest, error) {
	var none registry.PushImage
	found, err := findStored(s, name)
	if err != nil {
		return none, "", err
	}
	shown := shownName(found.Name)
	raw, err := readStoredJSON(s, found.Digest)
	if err != nil {
		return none, "", fmt.Errorf("read image %s: %w", shown, err)
	}
	root, err := layout.ImageIndexFromPath(s.LayoutDir())
	if err != nil {
		return none, "", fmt.Errorf("read image %s: %w", shown, err)
	}
	hash, err := v1.NewHash(found.Digest.String())
	if err != nil {
		return none, "", fmt.Errorf("read image %s: %w", shown, err)
	}
	out := registry.PushImage{Refs: []string{found.Name}}
	d := found.Digest
	if types.MediaType(mediaTypeOf(found, raw)).IsIndex() {
		if out.Index, err = root.ImageIndex(hash); err == nil && only != nil {
			if d, err = chooseManifest(raw, *only); err == nil {
				out.Image, err = out.Index.Image(v1.Hash{Algorithm: d.Algorithm().String(), Hex: d.Encoded()})
				out.Index = nil
			}
		}
	} else {
		out.Image, err = root.Image(hash)
	}
	if err == nil {
		err = complete(s, out)
	}
	if err != nil {
		return none, "", usagef("image %s: %w", shown, err)
	}
	return out, d, nil
}

// complete checks that the store has all of an image: of a base it keeps only what builds needed.
func complete(s *cache.Store, p registry.PushImage) error {
	if p.Index == nil {
		if !hasAll(s, p.Image) {
			return fmt.Errorf("its layers are not in the local store: bring them with bake image pull")
		}
		return nil
	}
	m, err := p.Index.IndexManifest()
	if err != nil {
		return err
	}
	var here []string
	lacks := false
	for _, d := range m.Manifests {
		image, err := p.Index.Image(d.Digest)
		if err != nil || !s.HasBlob(digest.Digest(d.Digest.String()), d.Size) || !hasAll(s, image) {
			lacks = true
			continue
		}
		if p := d.Platform; p != nil && p.OS != "unknown" {
			here = append(here, platforms.Format(ocispecs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}))
		}
	}
	switch {
	case !lacks:
		return nil
	case len(here) == 0:
		return fmt.Errorf("its layers are not in the local store: bring them with bake image pull")
	}
	return fmt.Errorf("only %s of its %d manifests is in the local store: send that with --platform %s, or the whole from where it came from",
		strings.Join(here, ", "), len(m.Manifests), here[0])
}

func hasAll(s *cache.Store, image v1.Image) bool {
	m, err := image.Manifest()
	if err != nil {
		return false
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if d.MediaType.IsDistributable() && !s.HasBlob(digest.Digest(d.Digest.String()), d.Size) {
			return false
		}
	}
	return true
}
