package cache

import digest "github.com/opencontainers/go-digest"

// Import stores an entry from a remote cache and lets it serve further keys. The layers of the entry need not exist
// yet: Lookup does not find the entry before they do. Files that already have this content are not written again.
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
