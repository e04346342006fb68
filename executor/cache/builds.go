package cache

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxBuilds is how many builds are kept, and maxBuild what one may take in bytes.
const (
	maxBuilds = 100
	maxBuild  = 128 << 20
)

// stampLayout starts the names of builds and logs, so that they sort by time.
const stampLayout = "20060102T150405.000"

// Stamp is a time as names of builds and logs start with it.
func Stamp(t time.Time) string { return t.UTC().Format(stampLayout) }

// PutBuild keeps the record of a build under a name that starts with its Stamp. The oldest builds beyond a hundred go,
// and so do logs that are older than all builds which are kept and than all that run now.
func (s *Store) PutBuild(name string, record []byte) error {
	path := s.path(dirBuilds, name)
	if err := s.writeFile(path, record); err != nil {
		return wrap("write", path, err)
	}
	names, err := s.Builds()
	if err != nil || len(names) <= maxBuilds {
		return err
	}
	for _, old := range names[maxBuilds:] {
		if err := remove(s.path(dirBuilds, old)); err != nil {
			return wrap("remove", s.path(dirBuilds, old), err)
		}
	}
	return s.dropLogs(names[maxBuilds-1])
}

// dropLogs removes logs from before a build, as long as no process that runs now is as old.
func (s *Store) dropLogs(before string) error {
	l, err := s.leases(true)
	if err != nil {
		return err
	}
	before = min(before, Stamp(l.oldest))
	dir, err := os.Open(s.path(dirLogs))
	if err != nil {
		return wrap("list", s.path(dirLogs), err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	for _, name := range names {
		if name < before {
			err = errors.Join(err, remove(s.path(dirLogs, name)))
		}
	}
	return wrap("clear", s.path(dirLogs), err)
}

// remove removes a file; one that is gone already is no error.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Builds are the names of the builds that are kept, the newest first.
func (s *Store) Builds() ([]string, error) {
	entries, err := os.ReadDir(s.path(dirBuilds))
	if err != nil {
		return nil, wrap("list", s.path(dirBuilds), err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Reverse(names)
	return names, nil
}

// OpenBuild opens the record of a build.
func (s *Store) OpenBuild(name string) (io.ReadCloser, error) {
	f, err := os.Open(s.path(dirBuilds, filepath.Base(name)))
	return f, wrap("open", s.path(dirBuilds, name), err)
}

// Build reads the record of a build.
func (s *Store) Build(name string) ([]byte, error) {
	path := s.path(dirBuilds, filepath.Base(name))
	raw, err := readBounded(path, maxBuild)
	return raw, wrap("read", path, err)
}

// OpenLog opens a log of a step by the name of its file. fs.ErrNotExist says that it was removed since.
func (s *Store) OpenLog(name string) (*os.File, error) {
	if name == "" || strings.ContainsRune(name, filepath.Separator) {
		return nil, fs.ErrNotExist
	}
	return os.Open(s.path(dirLogs, name))
}
