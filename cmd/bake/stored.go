package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/cache"
)

// maxStoredJSON bounds a manifest or config that is read from the store, in bytes.
const maxStoredJSON = 8 << 20

// storedImage is one platform of an image in the local store.
type storedImage struct {
	cache.Image
	Manifest *v1.Manifest
	Config   *v1.ConfigFile
}

// size is what the image takes packed: its layers and its config, in bytes.
func (i storedImage) size() int64 {
	n := i.Manifest.Config.Size
	for _, l := range i.Manifest.Layers {
		n += l.Size
	}
	return n
}

// findStored looks an image up by the name that a user wrote.
func findStored(s *cache.Store, name string) (cache.Image, error) {
	full, err := storeName(name)
	if err != nil {
		return cache.Image{}, err
	}
	found, ok, err := s.Image(full)
	if err != nil {
		return cache.Image{}, err
	}
	if !ok {
		return cache.Image{}, usagef("no image %s in the local store (bake image ls lists them, bake image pull %s fetches it)", shownName(full), shownName(full))
	}
	return found, nil
}

// openStored reads the manifest and config of an image, of the platform p if it has several.
func openStored(s *cache.Store, image cache.Image, p ocispecs.Platform) (storedImage, error) {
	manifest, err := manifestOf(s, image, p)
	if err != nil {
		return storedImage{}, fmt.Errorf("read image %s: %w", shownName(image.Name), err)
	}
	raw, err := readStoredJSON(s, digest.Digest(manifest.Config.Digest.String()))
	if err != nil {
		return storedImage{}, fmt.Errorf("read the config of image %s: %w", shownName(image.Name), err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return storedImage{}, fmt.Errorf("read the config of image %s: %w", shownName(image.Name), err)
	}
	return storedImage{Image: image, Manifest: manifest, Config: config}, nil
}

func manifestOf(s *cache.Store, image cache.Image, p ocispecs.Platform) (*v1.Manifest, error) {
	raw, err := readStoredJSON(s, image.Digest)
	if err != nil {
		return nil, err
	}
	if types.MediaType(mediaTypeOf(image, raw)).IsIndex() {
		chosen, err := chooseManifest(raw, p)
		if err != nil {
			return nil, err
		}
		if raw, err = readStoredJSON(s, chosen); err != nil {
			return nil, err
		}
	}
	return v1.ParseManifest(bytes.NewReader(raw))
}

// mediaTypeOf is what the store or the document itself says it is.
func mediaTypeOf(image cache.Image, raw []byte) string {
	if image.MediaType != "" {
		return image.MediaType
	}
	var d struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	if json.Unmarshal(raw, &d) == nil && d.MediaType == "" && d.Manifests != nil {
		return ocispecs.MediaTypeImageIndex
	}
	return d.MediaType
}

// chooseManifest picks the manifest of an index that fits the platform best.
func chooseManifest(index []byte, p ocispecs.Platform) (digest.Digest, error) {
	parsed, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return "", err
	}
	match := platforms.Only(p)
	var best *v1.Descriptor
	var bestPlatform ocispecs.Platform
	for i, m := range parsed.Manifests {
		if m.Platform == nil {
			continue
		}
		has := ocispecs.Platform{OS: m.Platform.OS, Architecture: m.Platform.Architecture, Variant: m.Platform.Variant}
		if match.Match(has) && (best == nil || match.Less(has, bestPlatform)) {
			best, bestPlatform = &parsed.Manifests[i], has
		}
	}
	if best == nil {
		return "", fmt.Errorf("it has no manifest for %s", platforms.FormatAll(p))
	}
	return digest.Digest(best.Digest.String()), nil
}

// readStoredJSON reads one small blob and checks it against its digest.
func readStoredJSON(s *cache.Store, d digest.Digest) ([]byte, error) {
	info, err := os.Stat(s.BlobPath(d))
	if err != nil {
		return nil, err
	}
	if info.Size() > maxStoredJSON {
		return nil, fmt.Errorf("%s is %d bytes, more than %d", d, info.Size(), maxStoredJSON)
	}
	raw, err := os.ReadFile(s.BlobPath(d))
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(raw); got != d {
		return nil, fmt.Errorf("%s holds the bytes of %s: the store is damaged, run bake cache check --repair", d, got)
	}
	return raw, nil
}
