package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// PutFileList keeps the list of the files whose content digest is d, unless it is there; it counts as used now.
func (s *Store) PutFileList(d digest.Digest, list func() ([]byte, error)) error {
	path := s.path(dirLists, d.Encoded())
	now := time.Now()
	if err := os.Chtimes(path, now, now); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return wrap("touch", path, err)
	}
	raw, err := list()
	if err != nil || len(raw) == 0 || len(raw) > maxList {
		return err
	}
	return wrap("write", path, s.writeFile(path, raw))
}

// FileList reads the list of the files whose content digest is d, nil when there is none.
func (s *Store) FileList(d digest.Digest) []byte {
	raw, err := readBounded(s.path(dirLists, filepath.Base(d.Encoded())), maxList)
	if err != nil {
		return nil
	}
	return raw
}
