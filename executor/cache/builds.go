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

// maxBuilds is how many build records are kept, and maxBuild the size of the largest that is read, in bytes.
const (
	maxBuilds = 100
	maxBuild  = 128 << 20
)

// stampLayout formats the time at the start of the names of builds and logs. The names sort by time.
const stampLayout = "20060102T150405.000"

// Stamp formats a time for the start of the name of a build or log.
func Stamp(t time.Time) string { return t.UTC().Format(stampLayout) }

// PutBuild stores the record of a build under a name that starts with its Stamp. It removes the oldest records beyond
// maxBuilds, and the logs that are older than every kept build and every running process.
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

// dropLogs removes the logs older than the build named before, except logs that a running process may have written.
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

// remove removes a file. A missing file is not an error.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Builds returns the names of the stored builds, newest first.
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

// OpenLog opens a step's log by its file name. The error is fs.ErrNotExist if the log was removed.
func (s *Store) OpenLog(name string) (*os.File, error) {
	if name == "" || strings.ContainsRune(name, filepath.Separator) {
		return nil, fs.ErrNotExist
	}
	return os.Open(s.path(dirLogs, name))
}
