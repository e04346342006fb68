// Package cache keeps what builds made: keys to entries, entries to layers, blobs and images, in plain files.
//
// Any number of processes on one machine may use one directory at once. They may be killed at any moment: whatever
// becomes visible does so by one rename, and what a dead process left is reaped by the next Open. A damaged, torn or
// missing file is a miss, never a wrong result. Files are not synced one by one: Sync makes all that this process
// wrote durable before a caller moves pointers to it; what was written in an earlier boot and never synced is checked
// or dropped by Open.
package cache

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
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
	fileTimes     = "times"
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
	if err := refuseNetwork(dir); err != nil {
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

// join takes a lease on a folder of its own below tmp/, after reaping the folders whose processes are gone.
func (s *Store) join() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	s.boot, s.started = boot, time.Now()
	gate, err := lockFile(s.path(dirLocks, "open"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	dead, err := s.findDead()
	if err == nil {
		err = s.takeLease()
	}
	if Full(err) {
		dead, err = nil, errors.Join(s.makeRoom(dead), s.takeLease())
	}
	if err == nil {
		dead, err = s.claimDead(dead)
	}
	err = errors.Join(err, gate.Close())
	if err != nil {
		return err
	}
	if err := s.gate.open(s.path(dirLocks, "gate")); err != nil {
		return err
	}
	if len(dead) > 0 {
		if err := s.forgetLedger(); err != nil {
			return err
		}
	}
	for _, d := range dead {
		if err := removeTree(d); err != nil {
			return err
		}
	}
	return s.checkUnsynced()
}

// takeLease makes tmp/NAME and tmp/NAME.lock, which stays locked as long as this process lives.
func (s *Store) takeLease() error {
	var random [8]byte
	rand.Read(random[:])
	s.tmp = s.path(dirTmp, hex.EncodeToString(random[:]))
	lease, err := lockFile(s.tmp+".lock", unix.LOCK_EX)
	if err != nil {
		return err
	}
	if err := os.Mkdir(s.tmp, 0o700); err != nil {
		return errors.Join(err, os.Remove(lease.Name()), lease.Close())
	}
	s.lease = lease
	return nil
}

// makeRoom frees the few blocks that a lease takes where the disk has none left, else nobody could open the cache to prune
// it: what dead processes left goes at once, and what is only remembered to save time. The caller holds the lock "open".
func (s *Store) makeRoom(dead []string) error {
	err := errors.Join(s.forgetLedger(), removeTree(s.path(fileSizes)))
	for _, lock := range dead {
		err = errors.Join(err, removeTree(strings.TrimSuffix(lock, ".lock")), removeTree(lock))
	}
	known, readErr := os.ReadDir(s.path(dirStat))
	for _, index := range known {
		err = errors.Join(err, removeTree(s.path(dirStat, index.Name())))
	}
	return errors.Join(err, readErr)
}

// findDead lists the lease names below tmp/ whose processes are gone. The caller holds the lock "open".
func (s *Store) findDead() ([]string, error) {
	names, err := os.ReadDir(s.path(dirTmp))
	if err != nil {
		return nil, err
	}
	var dead []string
	for _, n := range names {
		if n.IsDir() {
			continue
		}
		path := s.path(dirTmp, n.Name())
		f, err := lockFile(path, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // alive
		}
		if sameFile(f, path) { // else it has just ended, and has left nothing
			dead = append(dead, path)
		}
		f.Close()
	}
	return dead, nil
}

// claimDead moves the folders of dead processes into this process's own, so that the slow removal needs no lock.
func (s *Store) claimDead(locks []string) ([]string, error) {
	var claimed []string
	for _, lock := range locks {
		name := lock[:len(lock)-len(".lock")]
		moved := filepath.Join(s.tmp, "dead-"+filepath.Base(name))
		if err := os.Rename(name, moved); err == nil {
			claimed = append(claimed, moved)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := os.Remove(lock); err != nil {
			return nil, err
		}
	}
	return claimed, nil
}

func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(raw) < 36 {
		return "", errors.Join(errors.New("this machine has no boot id"), err)
	}
	return string(raw[:36]), nil
}
