package cache

// Eviction frees the least recently used items until the cache is within its limits. See gate.go and lease.go for what
// keeps it from removing items in use.
//
// Never evicted: roots (blobs of named images built or loaded here, and of pinned bases) and what running processes
// use. The last use is the later of two times: the item's own, and that of the last build of a target that depends on
// it. Without the second, a layer deep below a cached target would look unused and go first, although the next change
// of that target needs it (TestCollectKeepsLayersOfTargets).
//
// Measuring costs a walk through the cache, so Collect first compares the ledger with the limits and usually stops
// there (TestCollectMeasuresOnlyWhenItMust).

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// Limits bound the size of a cache. Only Collect heeds them: writes are never refused.
type Limits struct {
	Size    int64 // bytes that the cache may occupy; 0 is unlimited
	Reserve int64 // bytes of the file system to keep free; 0 is none
}

// Collected describes what a collection did.
type Collected struct {
	Pruned
	// Over is by how many bytes the cache still exceeds its limits, 0 if it does not. The rest is needed by tagged
	// images, pins and running builds.
	Over int64
}

// A collection frees more than necessary, so that the next builds need no collection.
const (
	sizeMargin    = 10 // a tenth of Limits.Size
	reserveMargin = 5  // a fifth of Limits.Reserve
)

// stuckStep is by how many bytes the cache must grow before a collection that could not reach the limits is repeated.
const stuckStep = 16 << 20

// Collect evicts the least recently used items until the cache is within its limits. Call it after the last build of
// this process: what this process used counts as just used but may be evicted. What other running processes use is
// kept. Far below the limits Collect measures nothing. If another process is collecting, it returns at once.
func (s *Store) Collect(ctx context.Context, limits Limits) (Collected, error) {
	added, err := s.drainAdded()
	if err != nil {
		return Collected{}, err
	}
	var old ledger
	known, err := s.changeLedger(added != 0, func(l *ledger) { l.Total += added; old = *l })
	if err != nil {
		return Collected{}, err
	}
	space, err := SpaceOf(s.dir)
	if err != nil {
		return Collected{}, err
	}
	short := limits.Reserve - space.Free
	fits := limits.Size <= 0 || old.Total <= limits.Size
	if known && (fits && short <= 0 || old.Stuck > 0 && old.Total < old.Stuck+stuckStep) {
		return Collected{}, nil
	}
	lock, err := lockFile(s.path(dirLocks, "collect"), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return Collected{}, nil // another process is collecting
	}
	if err != nil {
		return Collected{}, wrap("lock", s.dir, err)
	}
	defer lock.Close()
	return s.collect(ctx, limits, short, old.Total)
}

// collect measures the cache and evicts what exceeds the limits. short is how many bytes the file system lacks for
// Limits.Reserve; noted is the Total in the ledger.
func (s *Store) collect(ctx context.Context, limits Limits, short, noted int64) (Collected, error) {
	v, err := s.survey()
	if err != nil {
		return Collected{}, err
	}
	target := v.total
	if limits.Size > 0 && v.total > limits.Size {
		target = limits.Size - limits.Size/sizeMargin
	}
	if short > 0 {
		target = max(min(target, v.total-short-limits.Reserve/reserveMargin), 0)
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
