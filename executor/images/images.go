// Package images finds, reads, lists, loads and pulls images of the local store, the image part of the cache directory.
// Commands share it, so that every command chooses a platform, checks a digest and names an image in the same way.
//
// It writes blobs first and names last: an image that the store lists is complete, except for the layers of a base that
// no build needed yet. It imports executor/cache and executor/registry, and the planner for names; it knows no engine.
package images

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
	"github.com/bakebuild/bake/planner"
)

// maxJSON bounds a manifest or config that is read from the store, in bytes.
const maxJSON = 8 << 20

// Error is a request that the local store cannot serve: an invalid or unknown name, or an incomplete image. It does not
// unwrap, so that it stays a mistake of the request, whatever its cause is.
type Error struct{ text string }

func (e *Error) Error() string { return e.text }

func errorf(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Image is one platform of an image in the local store.
type Image struct {
	cache.Image
	Manifest *v1.Manifest
	Config   *v1.ConfigFile
}

// PackedSize returns the size of the image's packed layers and its config, in bytes.
func (i Image) PackedSize() int64 {
	n := i.Manifest.Config.Size
	for _, l := range i.Manifest.Layers {
		n += l.Size
	}
	return n
}

// Find returns the record of an image by a name as a user writes it.
func Find(s *cache.Store, name string) (cache.Image, error) {
	return find(s, name, func(shown string) string { return ", or pull it: bake image pull " + shown })
}

// Remove removes the record of an image by a name as a user writes it. It returns the full name.
func Remove(s *cache.Store, name string) (string, error) {
	found, err := find(s, name, func(string) string { return "" })
	if err != nil {
		return "", err
	}
	_, err = s.RemoveImage(found.Name)
	return found.Name, err
}

// find is Find. more returns the end of the message about an image that the store does not have.
func find(s *cache.Store, name string, more func(shown string) string) (cache.Image, error) {
	full, err := FullName(name)
	if err != nil {
		return cache.Image{}, err
	}
	found, ok, err := s.Image(full)
	if err != nil {
		return cache.Image{}, err
	}
	if !ok {
		shown := planner.FamiliarName(full)
		return cache.Image{}, errorf("no image %s in the local store; list images with bake image ls%s",
			shown, more(shown))
	}
	return found, nil
}

// Open reads the manifest and config of an image. Where the image has several platforms, it opens the best match for p.
func Open(s *cache.Store, image cache.Image, p ocispecs.Platform) (Image, error) {
	shown := planner.FamiliarName(image.Name)
	manifest, err := Manifest(s, image, p)
	if err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", shown, err)
	}
	raw, err := ReadJSON(s, digest.Digest(manifest.Config.Digest.String()))
	if err != nil {
		return Image{}, fmt.Errorf("read the config of image %s: %w", shown, err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return Image{}, fmt.Errorf("read the config of image %s: %w", shown, err)
	}
	return Image{Image: image, Manifest: manifest, Config: config}, nil
}

// Manifest reads the manifest of an image: the image's own, or the best match for p in its index.
func Manifest(s *cache.Store, image cache.Image, p ocispecs.Platform) (*v1.Manifest, error) {
	raw, err := ReadJSON(s, image.Digest)
	if err != nil {
		return nil, err
	}
	if isIndex(image, raw) {
		chosen, err := choose(raw, p)
		if err != nil {
			return nil, err
		}
		if raw, err = ReadJSON(s, chosen); err != nil {
			return nil, err
		}
	}
	return v1.ParseManifest(bytes.NewReader(raw))
}

// isIndex reports whether an image's document is an index. The store's media type counts before the document's own; a
// document without any is an index if it lists manifests.
func isIndex(image cache.Image, raw []byte) bool {
	if image.MediaType != "" {
		return types.MediaType(image.MediaType).IsIndex()
	}
	var d struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	if json.Unmarshal(raw, &d) == nil && d.MediaType == "" {
		return d.Manifests != nil
	}
	return types.MediaType(d.MediaType).IsIndex()
}

// choose returns the digest of the manifest in an index that fits the platform best.
func choose(index []byte, p ocispecs.Platform) (digest.Digest, error) {
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

// ReadJSON reads a manifest or config and checks it against its digest.
func ReadJSON(s *cache.Store, d digest.Digest) ([]byte, error) {
	info, err := os.Stat(s.BlobPath(d))
	if err != nil {
		return nil, err
	}
	if info.Size() > maxJSON {
		return nil, fmt.Errorf("%s is %d bytes, more than %d", d, info.Size(), maxJSON)
	}
	raw, err := os.ReadFile(s.BlobPath(d))
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(raw); got != d {
		return nil, fmt.Errorf("%s holds the bytes of %s: the store is damaged; run bake cache check --repair", d, got)
	}
	return raw, nil
}
