package cache

import (
	"errors"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// FilledMount takes the cache mount of an id as one of any number of holders, if it is there and filled. It is nil when
// there is none, or when somebody holds it alone.
func (s *Store) FilledMount(id string) (*Mount, error) {
	name := digest.FromString(id).Encoded()
	if _, err := os.Lstat(s.path(dirMounts, name, "seeded")); err != nil {
		return nil, nil
	}
	dir := s.path(dirMounts, name)
	lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("lock cache mount", dir, err)
	}
	return &Mount{Dir: filepath.Join(dir, "fs"), lock: lock}, nil
}
