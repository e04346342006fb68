package cache

import (
	"context"
	"errors"

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
	sizeMargin    = 10 // a tenth of Limits.Size
	reserveMargin = 5  // a fifth of Limits.Reserve
)

// stuckStep is how many bytes make a collection worth another try.
const stuckStep = 16 << 20

// Collect frees what was not used for longest until the cache is within its limits. Call it when this process has ended
// its builds: what it used itself counts as used just now, but does not stay in any case. What a build of another process
// uses does. Far below the limits it measures nothing.
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
