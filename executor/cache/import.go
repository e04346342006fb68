package cache

import digest "github.com/opencontainers/go-digest"

// Import keeps an entry that was made elsewhere, and lets it serve further keys. Its own layers need not be here: until they
// are, Lookup does not find it. What is stored so already is not written again.
func (s *Store) Import(e *Entry, aliases ...digest.Digest) error {
	if v, ok := s.readEntry(s.entryPath(e.Key)); !ok || v.Entry == nil || v.Entry.ID != e.ID {
		if err := s.Put(e); err != nil {
			return err
		}
	}
	for _, key := range aliases {
		if v, ok := s.readEntry(s.entryPath(key)); key == e.Key || ok && v.Alias == e.Key {
			continue
		}
		if err := s.Alias(key, e.Key); err != nil {
			return err
		}
	}
	return nil
}
