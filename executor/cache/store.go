// Package cache keeps what builds made: keys to entries, entries to layers, blobs and images, in plain files.
//
// Any number of processes on one machine may use one directory at once. They may be killed at any moment: whatever
// becomes visible does so by one rename, and what a dead process left is reaped by the next Open. A damaged, torn or
// missing file is a miss, never a wrong result. Files are not synced one by one: Sync makes all that this process
// wrote durable before a caller moves pointers to it; what was written in an earlier boot and never synced is checked
// or dropped by Open.
package cache

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// The folders and files of a cache directory.
const (
	dirBlobs      = "oci/blobs/sha256"
	dirOCI        = "oci"
	dirEntries    = "entries"
	dirCandidates = "candidates"
	dirLayers     = "layers"
	dirMounts     = "mounts"
	dirLogs       = "logs"
	dirBuilds     = "builds"
	dirPast       = "past"
	dirLists      = "lists"
	dirStat       = "statindex"
	dirLocks      = "locks"
	dirTmp        = "tmp"
	dirUnsynced   = "unsynced"
	dirPacked     = "packed"
	dirTargets    = "targets"
	dirPins       = "pins"
	fileDurations = "times"
	fileSizes     = "sizes"
	fileLedger    = "ledger"
)

// Store is one cache directory, opened by this process.
type Store struct {
	dir     string
	boot    string // boot id of this machine
	lease   *os.File
	tmp     string // this process's own folder below tmp/
	started time.Time
	gate    gate
	serial  int64        // of names in tmp, atomic
	added   atomic.Int64 // bytes written, about

	mu       sync.Mutex
	unsynced []string // marks of what was committed and not synced yet
	logs     []string // paths of logs that were begun
	mounts   []string // names of cache mounts that were taken
}

// Open opens the cache in dir, makes it if it is missing, and reaps what dead processes left. The error is an *Error.
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
	return s, nil
}

// Dir is the directory of the cache.
func (s *Store) Dir() string { return s.dir }

// StatIndexDir is a folder of the cache for what callers remember of the files of build contexts.
func (s *Store) StatIndexDir() string { return s.path(dirStat) }

// Close gives up this process's lease and removes what it left unfinished.
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
	// A cache that others may enter would let them run setuid files of its layers.
	if err := os.Chmod(s.dir, 0o700); err != nil {
		return err
	}
	for _, sub := range []string{
		dirBlobs, dirEntries, dirCandidates, dirLayers, dirMounts, dirLogs, dirBuilds, dirPast, dirLists, dirStat, dirLocks, dirTmp, dirUnsynced, dirPacked,
		dirTargets, dirPins,
	} {
		if err := os.MkdirAll(s.path(sub), 0o700); err != nil {
			return err
		}
	}
	return s.makeLayout()
}

func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(raw) < 36 {
		return "", errors.Join(errors.New("this machine has no boot id"), err)
	}
	return string(raw[:36]), nil
}
