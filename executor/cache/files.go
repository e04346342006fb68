package cache

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// writeFile replaces the content of path by one rename. It creates the parent directory if necessary.
func (s *Store) writeFile(path string, raw []byte) error {
	tmp, err := s.tempFile()
	if err != nil {
		return err
	}
	_, err = tmp.Write(raw)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = s.moveInto(tmp.Name(), path)
	}
	s.added.Add(onDisk(int64(len(raw))))
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

// TempDir creates a directory for unfinished files of the caller. If the caller does not remove it, Close does, or
// another process once this one has ended.
func (s *Store) TempDir() (string, error) {
	dir := s.tempName()
	return dir, wrap("create a directory in", s.tmp, os.Mkdir(dir, 0o700))
}

// tempFile creates an empty file in this process's own directory.
func (s *Store) tempFile() (*os.File, error) {
	return os.OpenFile(s.tempName(), os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o600)
}

// tempName returns a new, unused path in this process's own directory.
func (s *Store) tempName() string {
	return filepath.Join(s.tmp, strconv.FormatInt(atomic.AddInt64(&s.serial, 1), 36))
}

// moveInto renames a file to path. It creates the parent directory as often as necessary: a concurrent sweep removes
// empty directories. A directory at path, or something else in place of a parent, is damage: it is removed.
func (s *Store) moveInto(from, path string) error {
	err := os.Rename(from, path)
	for tries := 0; err != nil && tries < 100; tries++ {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = os.MkdirAll(filepath.Dir(path), 0o700)
		case errors.Is(err, fs.ErrExist), errors.Is(err, unix.EISDIR):
			err = s.discard(path)
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			rel, _ := filepath.Rel(s.dir, filepath.Dir(path))
			err = s.makeFolder(rel)
		default:
			return err
		}
		if err == nil {
			err = os.Rename(from, path)
		}
	}
	return err
}

// discard removes a file or directory that is damaged. A missing one is not an error.
func (s *Store) discard(path string) error {
	aside := s.tempName()
	if err := os.Rename(path, aside); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return removeTree(aside)
}

// readBounded reads a regular file of at most limit bytes. It never waits, even if path names a pipe.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit || !info.Mode().IsRegular() {
		return nil, errDamaged
	}
	raw := make([]byte, info.Size())
	if _, err := io.ReadFull(f, raw); err != nil {
		return nil, err
	}
	return raw, nil
}

// removeTree removes a tree, whatever the modes of its directories. A missing tree is not an error.
func removeTree(path string) error {
	if err := os.RemoveAll(path); err == nil {
		return nil
	}
	// Only root can empty directories without the write bit.
	filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}
