package cache

import (
	"encoding/json"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest bounds a manifest, an index or an image config read here, in bytes.
const maxManifest = 4 << 20

// rootBlobs returns the blobs that are never evicted: those of images built or loaded here, as long as they have a
// name, and those of bases that a lock file pins. Of other bases, only manifests and configs are roots: their layers
// can be pulled again.
func (s *Store) rootBlobs() (map[digest.Digest]bool, error) {
	images, err := s.Images()
	if err != nil {
		return nil, err
	}
	w := rootWalk{s: s, roots: map[digest.Digest]bool{}, seen: map[digest.Digest]bool{}}
	for _, image := range images {
		if image.Kind != KindBase {
			w.add(image.Digest, true, 0)
		}
	}
	pins, err := s.pinned()
	if err != nil {
		return nil, err
	}
	for _, d := range pins {
		w.add(d, true, 0)
	}
	for _, image := range images {
		if image.Kind == KindBase {
			w.add(image.Digest, false, 0)
		}
	}
	return w.roots, nil
}

// rootWalk follows manifests to the blobs they refer to.
type rootWalk struct {
	s     *Store
	roots map[digest.Digest]bool // the blobs found
	seen  map[digest.Digest]bool // the manifests whose layers were added too
}

// add adds a manifest and the blobs it refers to, including layers if layers is true. A missing manifest is ignored.
func (w *rootWalk) add(d digest.Digest, layers bool, depth int) {
	if depth > 3 || d.Validate() != nil || w.seen[d] || !layers && w.roots[d] {
		return
	}
	m, ok := w.s.readManifest(d)
	if !ok {
		return
	}
	w.roots[d] = true
	w.seen[d] = layers
	if m.Config != nil && m.Config.Digest.Validate() == nil {
		w.roots[m.Config.Digest] = true
	}
	for _, l := range m.Layers {
		if layers && l.Digest.Validate() == nil {
			w.roots[l.Digest] = true
		}
	}
	for _, child := range m.Manifests {
		w.add(child.Digest, layers, depth+1)
	}
}

// manifest is the manifest of an image, or an index of several.
type manifest struct {
	Config    *ocispecs.Descriptor  `json:"config"`
	Layers    []ocispecs.Descriptor `json:"layers"`
	Manifests []ocispecs.Descriptor `json:"manifests"`
}

func (s *Store) readManifest(d digest.Digest) (manifest, bool) {
	var m manifest
	raw, err := readBounded(s.BlobPath(d), maxManifest)
	return m, err == nil && json.Unmarshal(raw, &m) == nil
}
