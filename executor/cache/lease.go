package cache

// A lease shows that a process has the cache open. It is a lock file tmp/NAME.lock, held by flock, with a directory
// tmp/NAME for the unfinished files of the process. The kernel releases the lock when the process ends, however it
// ends.
//
// Invariants:
//   - While the lock is held, no other process removes tmp/NAME. Otherwise a draft could vanish before its rename.
//   - The modification time of the lock file is when the process opened the cache. Every use by the process is at
//     least as recent (see Store.use), so an item last used before the oldest lease is in use by no process. Without
//     this rule, eviction could remove a layer that a running step has mounted.
//   - Creating a lease and looking for leases of ended processes happen under locks/open. Otherwise Open could find the
//     lock file of a starting process before it is locked, and remove it. So a directory without a lock file belongs to
//     no process.
//
// TestOpenReapsTheDead, TestOpenWhileOthersClose, TestCollectDuringBuild and TestClockSetBack show these rules.

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// join takes a lease, removes the directories of processes that have ended, and checks what earlier boots left
// unsynced. Other processes that open the cache wait until the check has ended.
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
		err = s.acquireLease()
	}
	if DiskFull(err) {
		dead, err = nil, errors.Join(s.makeRoom(dead), s.acquireLease())
	}
	if err == nil {
		dead, err = s.moveDead(dead)
	}
	if err == nil {
		var dropped []string
		dropped, err = s.checkUnsynced()
		dead = append(dead, dropped...)
	}
	if err = errors.Join(err, gate.Close()); err != nil {
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
	return nil
}

// acquireLease creates tmp/NAME and tmp/NAME.lock. The lock is held until Close or until the process ends.
func (s *Store) acquireLease() error {
	var random [8]byte
	rand.Read(random[:])
	s.tmp = s.path(dirTmp, hex.EncodeToString(random[:]))
	lease, err := lockFile(s.tmp+lockSuffix, unix.LOCK_EX)
	if err != nil {
		return err
	}
	if err := os.Mkdir(s.tmp, 0o700); err != nil {
		return errors.Join(err, os.Remove(lease.Name()), lease.Close())
	}
	s.lease = lease
	return nil
}

// makeRoom frees the few blocks that a lease needs on a full disk; otherwise no command could open the cache to prune
// it. It removes the directories of processes that have ended and files that only save time: the ledger, the sizes and
// the stat indexes. The caller holds the lock "open".
func (s *Store) makeRoom(dead []string) error {
	err := errors.Join(s.forgetLedger(), removeTree(s.path(fileSizes)))
	for _, lock := range dead {
		err = errors.Join(err, removeTree(strings.TrimSuffix(lock, lockSuffix)), removeTree(lock))
	}
	known, readErr := os.ReadDir(s.path(dirStat))
	for _, index := range known {
		err = errors.Join(err, removeTree(s.path(dirStat, index.Name())))
	}
	return errors.Join(err, readErr)
}

// lockSuffix ends the names of lock files below tmp/.
const lockSuffix = ".lock"

// findDead lists the lock files below tmp/ of processes that have ended, and the paths of lock files that are missing
// next to a directory. The caller holds the lock "open".
func (s *Store) findDead() ([]string, error) {
	names, err := os.ReadDir(s.path(dirTmp))
	if err != nil {
		return nil, err
	}
	var dead []string
	for _, n := range names {
		path := s.path(dirTmp, n.Name())
		name, isLock := strings.CutSuffix(path, lockSuffix)
		if !isLock {
			if _, err := os.Lstat(name + lockSuffix); errors.Is(err, os.ErrNotExist) {
				dead = append(dead, name+lockSuffix)
			}
			continue
		}
		f, err := lockFile(path, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // the process is running
		}
		if sameFile(f, path) { // otherwise its process has just closed the cache and removed it
			dead = append(dead, path)
		}
		f.Close()
	}
	return dead, nil
}

// moveDead moves the directories of processes that have ended into this process's own, so that the slow removal needs
// no lock. It returns the new paths.
func (s *Store) moveDead(locks []string) ([]string, error) {
	var moved []string
	for _, lock := range locks {
		name := strings.TrimSuffix(lock, lockSuffix)
		target := filepath.Join(s.tmp, "dead-"+filepath.Base(name))
		if err := os.Rename(name, target); err == nil {
			moved = append(moved, target)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := remove(lock); err != nil {
			return nil, err
		}
	}
	return moved, nil
}

// clockSlack is an upper bound for how far a file system's timestamps lag behind the clock.
const clockSlack = time.Second

// leases holds what eviction needs to know about the running processes.
type leases struct {
	oldest time.Time // when the first of them opened the cache, minus clockSlack; zero if there is none
	others bool      // processes other than this one have the cache open
}

// leases reads the leases. If own is false, the lease of this process is ignored, so that what only this process used
// can be evicted.
func (s *Store) leases(own bool) (leases, error) {
	names, err := os.ReadDir(s.path(dirTmp))
	if err != nil {
		return leases{}, wrap("read the leases of", s.dir, err)
	}
	var l leases
	if own {
		l.oldest = s.started
	}
	for _, n := range names {
		if !strings.HasSuffix(n.Name(), lockSuffix) || s.path(dirTmp, n.Name()) == s.lease.Name() {
			continue
		}
		if info, err := n.Info(); err == nil {
			l.others = true
			if l.oldest.IsZero() || info.ModTime().Before(l.oldest) {
				l.oldest = info.ModTime()
			}
		}
	}
	if !l.oldest.IsZero() {
		l.oldest = l.oldest.Add(-clockSlack)
	}
	return l, nil
}

// busy reports whether a running process may be using an item that was last used at the given time. A time in the
// future comes from a clock that was set back later. It counts only if there are other processes: this one would have
// corrected the time when it used the item.
func (l leases) busy(used, now time.Time) bool {
	if l.oldest.IsZero() || used.Before(l.oldest) {
		return false
	}
	return l.others || !used.After(now.Add(clockSlack))
}
