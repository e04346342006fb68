// Package cache stores the results of builds in plain files: entries by key, and the layers, blobs and images that
// entries refer to.
//
// Any number of processes on one machine may use one directory at once, and any of them may be killed at any moment.
// They may rely on these rules:
//
//   - Files and layers become visible by one rename, so a visible one is complete.
//   - A damaged or missing file is a miss, never a wrong result.
//   - Open removes the unfinished files of processes that have ended.
//   - Nothing that a running process has used is removed (see gate.go).
//   - Files are not synced one by one. Sync makes everything that was committed durable, whichever process did it. Call
//     it before a name outside the cache moves to new content (see sync.go).
package cache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The directories and files of a cache directory. The names are part of the cache format.
const (
	dirBlobs      = "oci/blobs/sha256"
	dirOCI        = "oci"
	dirEntries    = "entries"
	dirCandidates = "candidates"
	dirClaimed    = "claims"
	dirLayers     = "layers"
	dirMounts     = "mounts"
	dirLogs       = "logs"
	dirBuilds     = "builds"
	dirPast       = "past"
	dirOutputs    = "outputs"
	dirLists      = "lists"
	dirStat       = "statindex"
	dirLocks      = "locks"
	dirTmp        = "tmp"
	dirUnsynced   = "unsynced"
	dirPacked     = "packed"
	dirTargets    = "targets"
	dirPins       = "pins"
	dirMountpoint = "points"
	fileDurations = "times"
	fileSizes     = "sizes"
	fileLedger    = "ledger"
	fileImages    = "images" // a copy of oci/index.json; see imagelist.go
)

// Store is one cache directory opened by this process. Its methods may be called by several goroutines.
type Store struct {
	dir     string
	boot    string // boot ID of this machine
	lease   *os.File
	tmp     string // this process's own directory below tmp/
	started time.Time
	gate    gate
	// unpacked is nil if layers are directories of the cache, see UnpackIn.
	unpacked  *unpacked
	unpacking unpacking
	serial    int64        // last number used for a name in tmp; atomic
	added     atomic.Int64 // approximate bytes written and not yet added to the ledger

	mu     sync.Mutex
	logs   []string     // paths of logs started and not yet added to the ledger
	mounts []string     // names of cache mounts used and not yet added to the ledger
	notes  func(string) // see SetNote; may be nil
}

// Open opens the cache in dir, creates it if it is missing, and removes what processes that have ended left
// unfinished. The error is of type *Error.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	if err := s.makeFolders(); err != nil {
		return nil, &Error{Op: "open the cache", Path: dir, Err: err}
	}
	if err := checkFileSystem(dir); err != nil {
		return nil, &Error{Op: "open the cache", Path: dir, Err: err}
	}
	if err := s.join(); err != nil {
		return nil, &Error{Op: "open the cache", Path: dir, Err: err}
	}
	if err := s.makeLayout(); err != nil {
		return nil, errors.Join(&Error{Op: "open the cache", Path: dir, Err: err}, s.Close())
	}
	return s, nil
}

// SetNote sets the function that receives messages about damage that was repaired. Set it before the first use.
func (s *Store) SetNote(f func(text string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = f
}

func (s *Store) note(text string) {
	s.mu.Lock()
	f := s.notes
	s.mu.Unlock()
	if f != nil {
		f(text)
	}
}

// Dir returns the directory of the cache.
func (s *Store) Dir() string { return s.dir }

// StatIndexDir returns the directory in which callers may remember facts about the files of build contexts.
func (s *Store) StatIndexDir() string { return s.path(dirStat) }

// MountpointDir returns the directory in which callers may keep empty directories and files to mount on.
func (s *Store) MountpointDir() string {
	if s.unpacked != nil {
		return filepath.Join(s.unpacked.dir, dirMountpoint)
	}
	return s.path(dirMountpoint)
}

// Close ends this process's lease and removes its unfinished files.
func (s *Store) Close() error {
	err := errors.Join(removeTree(s.tmp), os.Remove(s.lease.Name()), s.lease.Close(), s.gate.close())
	if err != nil {
		return &Error{Op: "close the cache", Path: s.dir, Err: err}
	}
	return nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *Store) makeFolders() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	// Layers hold setuid files: another user who may enter the cache could run them.
	if err := os.Chmod(s.dir, 0o700); err != nil {
		return err
	}
	for _, sub := range []string{
		dirBlobs, dirEntries, dirCandidates, dirLayers, dirMounts, dirLogs, dirBuilds, dirPast, dirLists, dirStat,
		dirOutputs, dirLocks, dirTmp, dirUnsynced, dirPacked, dirTargets, dirPins, dirMountpoint, dirClaimed,
	} {
		if err := s.makeFolder(sub); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder creates a directory of the cache and its parents. Something else in the place of one is damage: it is
// removed. A link to a directory is not.
func (s *Store) makeFolder(sub string) error {
	path := s.dir
	for part := range strings.SplitSeq(sub, "/") {
		path = filepath.Join(path, part)
		err := os.Mkdir(path, 0o700)
		if info, statErr := os.Stat(path); statErr == nil && !info.IsDir() || errors.Is(statErr, unix.ELOOP) {
			if err = remove(path); err == nil {
				err = os.Mkdir(path, 0o700)
			}
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// bootID returns the kernel's random ID of the current boot.
func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(raw) < 36 {
		return "", errors.Join(errors.New("this machine has no boot id"), err)
	}
	return string(raw[:36]), nil
}

// Scratch creates a file without a name: its space is freed when it is closed or this process ends.
func (s *Store) Scratch() (*os.File, error) {
	f, err := s.tempFile()
	if err != nil {
		return nil, wrap("create a file in", s.tmp, err)
	}
	return f, wrap("remove", f.Name(), os.Remove(f.Name()))
}
