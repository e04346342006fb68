package cache

import (
	"os"
	"path/filepath"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// PutFileList stores the list of the files whose content digest is d, and marks it as used. It calls list only if no
// list is stored.
func (s *Store) PutFileList(d digest.Digest, list func() ([]byte, error)) error {
	path := s.path(dirLists, d.Encoded())
	now := time.Now()
	if os.Chtimes(path, now, now) == nil {
		return nil
	}
	raw, err := list()
	if err != nil || len(raw) == 0 || len(raw) > maxList {
		return err
	}
	return wrap("write", path, s.writeFile(path, raw))
}

// FileList returns the list of the files whose content digest is d, or nil if none is stored.
func (s *Store) FileList(d digest.Digest) []byte {
	raw, err := readBounded(s.path(dirLists, filepath.Base(d.Encoded())), maxList)
	if err != nil {
		return nil
	}
	return raw
}
