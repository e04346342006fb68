package images

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// Content returns an image of the store with all its blobs, to be pushed under its own name, and the digest that is
// pushed. With a platform it returns only that platform of an index. An image that lacks a blob is an Error.
func Content(s *cache.Store, name string, only *ocispecs.Platform) (registry.PushImage, digest.Digest, error) {
	found, err := Find(s, name)
	if err != nil {
		return registry.PushImage{}, "", err
	}
	shown := planner.FamiliarName(found.Name)
	raw, err := ReadJSON(s, found.Digest)
	if err != nil {
		return registry.PushImage{}, "", fmt.Errorf("read image %s: %w", shown, err)
	}
	root, err := layout.ImageIndexFromPath(s.LayoutDir())
	if err != nil {
		return registry.PushImage{}, "", fmt.Errorf("read image %s: %w", shown, err)
	}
	hash, err := v1.NewHash(found.Digest.String())
	if err != nil {
		return registry.PushImage{}, "", fmt.Errorf("read image %s: %w", shown, err)
	}
	out := registry.PushImage{Refs: []string{found.Name}}
	d := found.Digest
	if isIndex(found, raw) {
		if out.Index, err = root.ImageIndex(hash); err == nil && only != nil {
			if d, err = choose(raw, *only); err == nil {
				out.Image, err = out.Index.Image(v1.Hash{Algorithm: d.Algorithm().String(), Hex: d.Encoded()})
				out.Index = nil
			}
		}
	} else {
		out.Image, err = root.Image(hash)
	}
	if err == nil {
		err = checkComplete(s, out)
	}
	if err != nil {
		return registry.PushImage{}, "", errorf("image %s: %v", shown, err)
	}
	return out, d, nil
}

var errNoLayers = errors.New("its layers are not in the local store; fetch them with bake image pull")

// checkComplete checks that the store has every blob of an image: of a base it keeps only what builds needed.
func checkComplete(s *cache.Store, p registry.PushImage) error {
	if p.Index == nil {
		if !isComplete(s, p.Image) {
			return errNoLayers
		}
		return nil
	}
	m, err := p.Index.IndexManifest()
	if err != nil {
		return err
	}
	var complete []string
	lacks := false
	for _, d := range m.Manifests {
		image, err := p.Index.Image(d.Digest)
		if err != nil || !s.HasBlob(digest.Digest(d.Digest.String()), d.Size) || !isComplete(s, image) {
			lacks = true
			continue
		}
		if p := d.Platform; p != nil && p.OS != "unknown" {
			complete = append(complete, platforms.Format(ocispecs.Platform{
				OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
			}))
		}
	}
	switch {
	case !lacks:
		return nil
	case len(complete) == 0:
		return errNoLayers
	}
	return fmt.Errorf("only %s of its %d manifests is in the local store; copy the whole image from its registry, or "+
		"push with --platform %s",
		strings.Join(complete, ", "), len(m.Manifests), complete[0])
}

// isComplete reports whether the store has the config and every layer that a registry may distribute.
func isComplete(s *cache.Store, image v1.Image) bool {
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
