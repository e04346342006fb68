package cache

import (
	"encoding/json"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ledger holds the size of the cache when it was last added up. Processes add what they wrote when they end, so a
// build need not measure the cache to know that it is far below its limit.
type ledger struct {
	Total int64
	// Stuck is the total after a collection that could not reach the limits, else 0. The next collection waits until
	// Total has grown by stuckStep: before that it could not free more.
	Stuck int64
}

// changeLedger applies change to the ledger under a lock and reports whether a ledger exists. If write is false, it
// only reads.
func (s *Store) changeLedger(write bool, change func(*ledger)) (known bool, err error) {
	path := s.path(fileLedger)
	if write {
		lock, err := lockFile(s.path(dirLocks, "ledger"), unix.LOCK_EX)
		if err != nil {
			return false, wrap("lock", path, err)
		}
		defer lock.Close()
	}
	var l ledger
	raw, err := readBounded(path, 1<<10)
	known = err == nil && json.Unmarshal(raw, &l) == nil && l.Total >= 0
	change(&l)
	if !write || !known {
		return known, nil
	}
	if raw, err = json.Marshal(l); err != nil {
		return known, err
	}
	return known, wrap("write", path, s.writeFile(path, raw))
}

// setLedger records a measured total. noted is the Total that was read before the measurement. What other processes
// added since may be part of the measurement or not; it is added again. Counting it twice is harmless: it only
// triggers the next survey sooner.
func (s *Store) setLedger(total, noted, stuck int64) error {
	path := s.path(fileLedger)
	lock, err := lockFile(s.path(dirLocks, "ledger"), unix.LOCK_EX)
	if err != nil {
		return wrap("lock", path, err)
	}
	defer lock.Close()
	var l ledger
	if raw, err := readBounded(path, 1<<10); err == nil && json.Unmarshal(raw, &l) == nil {
		total += max(l.Total-noted, 0)
	}
	raw, err := json.Marshal(ledger{Total: total, Stuck: stuck})
	if err != nil {
		return err
	}
	return wrap("write", path, s.writeFile(path, raw))
}

// forgetLedger makes the next collection measure everything, since the ledger lacks what a killed process wrote.
func (s *Store) forgetLedger() error {
	return removeTree(s.path(fileLedger))
}

// drainAdded returns approximately how many bytes this process wrote since the last call.
func (s *Store) drainAdded() (int64, error) {
	added := s.added.Swap(0)
	s.mu.Lock()
	logs, mounts := s.logs, s.mounts
	s.logs, s.mounts = nil, nil
	s.mu.Unlock()
	for _, path := range logs {
		if info, err := os.Lstat(path); err == nil {
			added += onDisk(info.Size())
		}
	}
	if len(mounts) == 0 {
		return added, nil
	}
	mountGrowth, err := s.mountGrowth(mounts)
	return added + mountGrowth, err
}

// mountGrowth returns by how many bytes the named cache mounts have grown since they were last measured.
func (s *Store) mountGrowth(names []string) (int64, error) {
	before := map[string]int64{}
	for key, size := range s.readSizes() {
		if path, _, ok := strings.Cut(key, "@"); ok {
			before[path] = size
		}
	}
	slices.Sort(names)
	var mountGrowth int64
	for _, name := range slices.Compact(names) {
		size, _, err := diskSize(s.path(dirMounts, name))
		if err != nil {
			return mountGrowth, wrap("measure", s.path(dirMounts, name), err)
		}
		mountGrowth += size - before[dirMounts+"/"+name]
	}
	return mountGrowth, nil
}
