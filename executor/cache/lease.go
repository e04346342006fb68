package cache

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
		err = s.acquireLease()
	}
	if DiskFull(err) {
		dead, err = nil, errors.Join(s.makeRoom(dead), s.acquireLease())
	}
	if err == nil {
		dead, err = s.moveDead(dead)
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

// acquireLease makes tmp/NAME and tmp/NAME.lock, which stays locked as long as this process lives.
func (s *Store) acquireLease() error {
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

// moveDead moves the folders of dead processes into this process's own, so that the slow removal needs no lock.
func (s *Store) moveDead(locks []string) ([]string, error) {
	var moved []string
	for _, lock := range locks {
		name := lock[:len(lock)-len(".lock")]
		target := filepath.Join(s.tmp, "dead-"+filepath.Base(name))
		if err := os.Rename(name, target); err == nil {
			moved = append(moved, target)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := os.Remove(lock); err != nil {
			return nil, err
		}
	}
	return moved, nil
}

// clockSlack is how far the time that a file system gives a file may be behind the clock, and more.
const clockSlack = time.Second

// leases are when the living processes opened this cache.
type leases struct {
	oldest time.Time
	others bool // there are other processes than this one
}

// leases reads them. Without own, this process counts as one that has ended.
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
		if !strings.HasSuffix(n.Name(), ".lock") || s.path(dirTmp, n.Name()) == s.lease.Name() {
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

// busy says whether a living process may use what was used last at a time: each use is no older than its process's lease.
// A time in the future is of a clock that was set back since; only another process can have given it.
func (l leases) busy(used, now time.Time) bool {
	if l.oldest.IsZero() || used.Before(l.oldest) {
		return false
	}
	return l.others || !used.After(now.Add(clockSlack))
}
