package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// PruneOptions says what to free. With several, what any of them asks for goes.
type PruneOptions struct {
	KeepBytes int64         // when positive: free until the cache takes at most this
	OlderThan time.Duration // when positive: free what was not used for this long
	All       bool          // free everything that can be
}

// Pruned says what a prune freed.
type Pruned struct {
	Bytes int64
	Items int
}

// item is one thing that a prune may remove: a layer, a blob, a cache mount or a file beside them.
type item struct {
	path string
	used time.Time
	size int64
}

// Prune frees what was not used for longest. What tagged images need stays, and so does everything that a process
// which is running now has used: each use is no older than its process's lease, and the removal of one thing and the
// finding of one exclude each other.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	items, total, err := s.prunable()
	if err != nil {
		return Pruned{}, err
	}
	var freed Pruned
	now := time.Now()
	for _, it := range items {
		over := o.KeepBytes > 0 && total > o.KeepBytes
		old := o.OlderThan > 0 && now.Sub(it.used) > o.OlderThan
		if !over && !old && !o.All {
			continue
		}
		if err := ctx.Err(); err != nil {
			return freed, context.Cause(ctx)
		}
		removed, err := s.removeItem(it)
		if err != nil {
			return freed, wrap("remove", it.path, err)
		}
		if removed {
			freed.Bytes += it.size
			freed.Items++
			total -= it.size
		}
	}
	return freed, s.dropEntries()
}

// prunable lists what may go, least recently used first, and what the cache takes in all.
func (s *Store) prunable() ([]item, int64, error) {
	roots, err := s.rootBlobs()
	if err != nil {
		return nil, 0, err
	}
	oldest, err := s.oldestLease()
	if err != nil {
		return nil, 0, wrap("read the leases of", s.dir, err)
	}
	usage, err := s.Usage()
	if err != nil {
		return nil, 0, err
	}
	var items []item
	for _, dir := range []string{dirLayers, dirBlobs, dirMounts, dirLogs} {
		names, err := os.ReadDir(s.path(dir))
		if err != nil {
			return nil, 0, wrap("list", s.path(dir), err)
		}
		for _, n := range names {
			if dir == dirBlobs && roots[digest.NewDigestFromEncoded(digest.SHA256, n.Name())] {
				continue
			}
			it, ok := s.measure(s.path(dir, n.Name()))
			if ok && it.used.Before(oldest) {
				items = append(items, it)
			}
		}
	}
	sort.Slice(items, func(i, j int) bool {
		if !items[i].used.Equal(items[j].used) {
			return items[i].used.Before(items[j].used)
		}
		return items[i].path < items[j].path
	})
	return items, usage.Total, nil
}

func (s *Store) measure(path string) (item, bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return item{}, false
	}
	size, err := diskSize(path)
	return item{path, info.ModTime(), size}, err == nil
}

// removeItem removes one thing unless somebody has used it since it was measured, or holds it.
func (s *Store) removeItem(it item) (bool, error) {
	if filepath.Dir(it.path) == s.path(dirMounts) {
		lock, err := lockFile(filepath.Join(it.path, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		if err == nil {
			defer lock.Close()
		}
	}
	gone := s.tempName()
	taken, err := s.takeAway(it, gone)
	if err != nil || !taken {
		return false, err
	}
	return true, removeTree(gone)
}

// takeAway moves a thing out of sight while no process is in the middle of finding something.
func (s *Store) takeAway(it item, gone string) (bool, error) {
	alone, err := lockFile(s.path(dirLocks, "gate"), unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer alone.Close()
	info, err := os.Lstat(it.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.ModTime().After(it.used) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, os.Rename(it.path, gone)
}

// dropEntries removes the entries whose layers are gone, and those that nobody can read any more.
func (s *Store) dropEntries() error {
	for _, dir := range []string{dirEntries, dirCandidates} {
		err := filepath.WalkDir(s.path(dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil
			}
			if v, ok := s.readEntry(path); !ok || v.Entry != nil && !s.hasLayers(v.Entry) {
				return os.Remove(path)
			}
			return nil
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return wrap("clear", s.path(dir), err)
		}
	}
	return nil
}

// hasLayers is useLayers without counting as a use.
func (s *Store) hasLayers(e *Entry) bool {
	for _, o := range e.Outputs {
		for _, p := range o.Parts {
			if p.Layer == "" {
				continue
			}
			if _, err := os.Lstat(s.layerPath(p.Layer)); err != nil {
				return false
			}
		}
	}
	return true
}
