package cache

import (
	"os"
	"path/filepath"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// PutFileList stores a list of files under a name, and marks it as used. It calls list only if no list is stored. The
// name must be one of the content of the files and of their paths.
func (s *Store) PutFileList(name digest.Digest, list func() ([]byte, error)) error {
	path := s.path(dirLists, name.Encoded())
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

// FileList returns the list of files that is stored under a name, or nil if none is.
func (s *Store) FileList(name digest.Digest) []byte {
	raw, err := readBounded(s.path(dirLists, filepath.Base(name.Encoded())), maxList)
	if err != nil {
		return nil
	}
	return raw
}
