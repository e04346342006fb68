package cache

import (
	"encoding/json"
	"os"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest bounds a manifest or index that is read to find what it needs, in bytes.
const maxManifest = 4 << 20

// rootBlobs are the blobs that nothing but their removal by name frees: those of images that were built or loaded
// here, and of bases that a lock file pins. Of other bases, pulled ones too, only what describes them stays; their layers can be
// fetched again.
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

// rootWalk follows manifests.
type rootWalk struct {
	s *Store
	// roots are the blobs found, seen the manifests of which all was found.
	roots, seen map[digest.Digest]bool
}

// add adds a manifest and what it names, its layers where they are asked for. A manifest that is not here needs nothing.
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

// manifest is an image's manifest, or an index of several.
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

// pinFile is what one lock file pins.
type pinFile struct {
	Lock string // its path
	Pins []digest.Digest
}

// KeepPins makes what a lock file pins stay in the cache for as long as the file exists.
func (s *Store) KeepPins(lock string, pins []digest.Digest) error {
	raw, err := json.Marshal(pinFile{lock, pins})
	if err != nil {
		return err
	}
	path := s.path(dirPins, digest.FromString(lock).Encoded())
	if old, err := readBounded(path, maxManifest); err == nil && string(old) == string(raw) {
		return nil
	}
	return wrap("record pins in", path, s.writeFile(path, raw))
}

// pinned are the digests that lock files pin, of those which still exist.
func (s *Store) pinned() ([]digest.Digest, error) {
	names, err := os.ReadDir(s.path(dirPins))
	if err != nil {
		return nil, wrap("list", s.path(dirPins), err)
	}
	var all []digest.Digest
	for _, n := range names {
		if p, ok := s.readPins(s.path(dirPins, n.Name())); ok {
			all = append(all, p.Pins...)
		}
	}
	return all, nil
}

func (s *Store) readPins(path string) (pinFile, bool) {
	var p pinFile
	raw, err := readBounded(path, maxManifest)
	if err != nil || json.Unmarshal(raw, &p) != nil {
		return p, false
	}
	_, err = os.Lstat(p.Lock)
	return p, err == nil
}

// deadPins says that a record is about a lock file that is no more.
func (s *Store) deadPins(path string) bool {
	_, ok := s.readPins(path)
	return !ok
}
