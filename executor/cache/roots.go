package cache

import (
	"encoding/json"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest bounds a manifest or index that is read to find what it needs, in bytes.
const maxManifest = 4 << 20

// rootBlobs are the blobs that the images of the store need.
func (s *Store) rootBlobs() (map[digest.Digest]bool, error) {
	images, err := s.Images()
	if err != nil {
		return nil, err
	}
	roots := map[digest.Digest]bool{}
	for _, image := range images {
		s.addRoots(roots, image.Digest, 0)
	}
	return roots, nil
}

// addRoots adds a manifest and all that it names. A manifest that is not here needs nothing.
func (s *Store) addRoots(roots map[digest.Digest]bool, d digest.Digest, depth int) {
	if depth > 3 || d.Validate() != nil || roots[d] {
		return
	}
	raw, err := readBounded(s.BlobPath(d), maxManifest)
	if err != nil {
		return
	}
	roots[d] = true
	var m struct {
		Config    *ocispecs.Descriptor  `json:"config"`
		Layers    []ocispecs.Descriptor `json:"layers"`
		Manifests []ocispecs.Descriptor `json:"manifests"`
	}
	if json.Unmarshal(raw, &m) != nil {
		return
	}
	if m.Config != nil && m.Config.Digest.Validate() == nil {
		roots[m.Config.Digest] = true
	}
	for _, l := range m.Layers {
		if l.Digest.Validate() == nil {
			roots[l.Digest] = true
		}
	}
	for _, child := range m.Manifests {
		s.addRoots(roots, child.Digest, depth+1)
	}
}
