package cache

import (
	"encoding/json"
	"os"

	digest "github.com/opencontainers/go-digest"
)

// pinFile records the digests that one lock file pins.
type pinFile struct {
	Lock string // path of the lock file
	Pins []digest.Digest
}

// PutPins records the digests that a lock file pins. Their blobs are not evicted as long as the lock file exists.
func (s *Store) PutPins(lock string, pins []digest.Digest) error {
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

// pinned returns the digests pinned by lock files that still exist.
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

// readPins reads a record and reports whether it is valid and its lock file exists.
func (s *Store) readPins(path string) (pinFile, bool) {
	var p pinFile
	raw, err := readBounded(path, maxManifest)
	if err != nil || json.Unmarshal(raw, &p) != nil {
		return p, false
	}
	_, err = os.Lstat(p.Lock)
	return p, err == nil
}

// stalePins reports whether a record is about a lock file that no longer exists.
func (s *Store) stalePins(path string) bool {
	_, ok := s.readPins(path)
	return !ok
}
