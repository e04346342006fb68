package cache

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits bound a cache. They drive Collect and nothing else: no write is ever refused for them.
type Limits struct {
	Size    int64 // bytes that the cache may take; 0 is no bound
	Reserve int64 // bytes of the file system that stay free; 0 is none
}

// Collected says what a collection did.
type Collected struct {
	Pruned
	// Over is how much more than Limits.Size the cache takes, or than Limits.Reserve the file system lacks, since all
	// else is needed by tagged images, pins and running builds; 0 when it fits.
	Over int64
}

// A collection frees a part more than it must, so that not every build has to.
const (
	spareOfSize    = 10 // a tenth of Limits.Size
	spareOfReserve = 5  // a fifth of Limits.Reserve
)

// stuckStep is how many bytes make a collection worth another try.
const stuckStep = 16 << 20

// Collect frees what was not used for longest until the cache is within its limits. Call it when this process has ended
// its builds: what it used itself counts as used just now, but does not stay in any case. What a build of another process
// uses does. Far below the limits it measures nothing.
func (s *Store) Collect(ctx context.Context, limits Limits) (Collected, error) {
	added, err := s.takeAdded()
	if err != nil {
		return Collected{}, err
	}
	var old ledger
	known, err := s.changeLedger(added != 0, func(l *ledger) { l.Total += added; old = *l })
	if err != nil {
		return Collected{}, err
	}
	free, _, err := freeBytes(s.dir)
	if err != nil {
		return Collected{}, wrap("measure", s.dir, err)
	}
	short := limits.Reserve - free
	fits := limits.Size <= 0 || old.Total <= limits.Size
	if known && (fits && short <= 0 || old.Stuck > 0 && old.Total < old.Stuck+stuckStep) {
		return Collected{}, nil
	}
	lock, err := lockFile(s.path(dirLocks, "collect"), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return Collected{}, nil // another process does it
	}
	if err != nil {
		return Collected{}, wrap("lock", s.dir, err)
	}
	defer lock.Close()
	return s.collect(ctx, limits, short, old.Total)
}

// collect measures the cache and frees what is too much. noted is what the ledger says.
func (s *Store) collect(ctx context.Context, limits Limits, short, noted int64) (Collected, error) {
	v, err := s.survey()
	if err != nil {
		return Collected{}, err
	}
	target := v.total
	if limits.Size > 0 && v.total > limits.Size {
		target = limits.Size - limits.Size/spareOfSize
	}
	if short > 0 {
		target = max(min(target, v.total-short-limits.Reserve/spareOfReserve), 0)
	}
	c := Collected{Pruned: Pruned{Total: v.total}}
	if target < v.total {
		l, err := s.leases(false)
		if err != nil {
			return c, err
		}
		c.Pruned, err = s.prune(ctx, v, l, func(_ item, total int64) bool { return total > target })
		if err != nil {
			return c, err
		}
		c.Over = max(short-c.Bytes, 0)
		if limits.Size > 0 {
			c.Over = max(c.Over, c.Total-limits.Size)
		}
	}
	var stuck int64
	if c.Over > 0 {
		stuck = c.Total
	}
	return c, s.setLedger(c.Total, noted, stuck)
}

// ledger is what the cache took when it was last added up. Processes add what they wrote when they end, so that a build
// need not measure everything to know that it is far below the limit.
type ledger struct {
	Total int64
	// Stuck is the total that the last collection could not get below, when that is beyond the limits: the next one waits
	// until there is stuckStep more.
	Stuck int64
}

// changeLedger changes what is noted, under a lock, and says whether anything is. Without write it only reads.
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
	known = err == nil && json.Unmarshal(raw, &l) == nil
	change(&l)
	if !write || !known {
		return known, nil
	}
	if raw, err = json.Marshal(l); err != nil {
		return known, err
	}
	return known, wrap("write", path, s.writeFile(path, raw))
}

// setLedger notes a measured total. What others added since noted was read may be in it or not: counting it twice only
// brings the next measurement nearer.
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

// forgetLedger makes the next collection measure everything: what a dead process wrote was not added.
func (s *Store) forgetLedger() error {
	err := os.Remove(s.path(fileLedger))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// takeAdded is about what this process wrote since it was last asked.
func (s *Store) takeAdded() (int64, error) {
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
	grown, err := s.grown(mounts)
	return added + grown, err
}

// grown says how much cache mounts have grown since they were last measured.
func (s *Store) grown(names []string) (int64, error) {
	before := map[string]int64{}
	for key, size := range s.readSizes() {
		if path, _, ok := strings.Cut(key, "@"); ok {
			before[path] = size
		}
	}
	slices.Sort(names)
	var grown int64
	for _, name := range slices.Compact(names) {
		size, _, err := diskSize(s.path(dirMounts, name))
		if err != nil {
			return grown, wrap("measure", s.path(dirMounts, name), err)
		}
		grown += size - before[dirMounts+"/"+name]
	}
	return grown, nil
}
