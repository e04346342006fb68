package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// PruneOptions says what to free. With several, what any of them asks for goes.
type PruneOptions struct {
	KeepBytes int64         // when positive: free until the cache takes at most this
	OlderThan time.Duration // when positive: free what was not used for this long
	All       bool          // free everything that can be, but for what tells of earlier builds
}

// Pruned says what a prune freed, and what the cache takes now.
type Pruned struct {
	Bytes int64
	Items int
	Total int64
}

// Prune frees what was not used for longest. What tagged images and pins need stays, and so does everything that a
// process which is running now has used: each use is no older than its process's lease, and the removal of one thing and
// the finding of one exclude each other.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	v, err := s.survey()
	if err != nil {
		return Pruned{}, err
	}
	l, err := s.leases(true)
	if err != nil {
		return Pruned{}, err
	}
	done, err := s.prune(ctx, v, l, func(it item, total int64) bool {
		return o.All && !it.isHistory() || o.KeepBytes > 0 && total > o.KeepBytes || o.OlderThan > 0 && v.now.Sub(it.order()) > o.OlderThan
	})
	return done, errors.Join(err, s.forgetLedger())
}

// tells says whether an item tells of earlier builds: their records, and why their steps ran. It is small, and outlives what
// it tells of.
func (it item) isHistory() bool {
	return it.dir == dirBuilds || it.dir == dirPast || it.dir == dirLists
}

// Freeable is what Prune with All would free once this process has ended, in bytes.
func (s *Store) Freeable() (int64, error) {
	v, err := s.survey()
	if err != nil {
		return 0, err
	}
	l, err := s.leases(false)
	if err != nil {
		return 0, err
	}
	list, err := s.evictable(v, l)
	var sum int64
	for _, it := range list {
		if !it.isHistory() {
			sum += it.size
		}
	}
	return sum, err
}

// evictable are the items that may go, in order.
func (s *Store) evictable(v *survey, l leases) ([]item, error) {
	roots, err := s.rootBlobs()
	if err != nil {
		return nil, err
	}
	s.setTargetBuilt(v)
	return v.freeable(roots, l), nil
}

// prune removes, in order, the items for which goes says so, given what the cache takes then.
func (s *Store) prune(ctx context.Context, v *survey, l leases, evict func(it item, total int64) bool) (Pruned, error) {
	done := Pruned{Total: v.total}
	list, err := s.evictable(v, l)
	if err != nil {
		return done, err
	}
	for _, it := range list {
		if !evict(it, done.Total) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return done, context.Cause(ctx)
		}
		removed, err := s.removeItem(it)
		if err != nil {
			return done, wrap("remove", s.path(it.dir, it.name), err)
		}
		if removed {
			done.Bytes += it.size
			done.Items++
			done.Total -= it.size
		}
	}
	swept, err := s.sweep(l)
	done.Bytes += swept
	done.Total -= swept
	return done, err
}

// removeItem removes one thing unless somebody has used it since it was measured, or holds it.
func (s *Store) removeItem(it item) (bool, error) {
	if it.dir == dirMounts {
		lock, err := lockFile(s.path(it.dir, it.name, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		if err == nil {
			defer lock.Close()
		}
	}
	aside := s.tempName()
	moved, err := s.moveAside(s.path(it.dir, it.name), aside, it.used)
	if err != nil || !moved {
		return false, err
	}
	return true, removeTree(aside)
}

// sweep removes what went with things that are gone: entries without their layers, aliases of no entry, records of
// blobs, locks that nobody holds, and notes about projects that are no more. What was written since the oldest lease may
// be about something that is still being made, and stays. It returns the bytes freed.
func (s *Store) sweep(l leases) (int64, error) {
	var freed int64
	drop := func(path string, info os.FileInfo) error {
		err := os.Remove(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			freed += onDisk(info.Size())
			os.Remove(filepath.Dir(path)) // an empty folder goes too
		}
		return err
	}
	for _, part := range []struct {
		dir   string
		stale func(path string) bool
	}{
		{dirEntries, s.staleEntry}, {dirCandidates, s.staleEntry}, {dirPacked, s.stalePacked}, {dirLocks, s.staleLock},
		{dirTargets, s.staleProject}, {dirPins, s.stalePins},
	} {
		err := filepath.WalkDir(s.path(part.dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil
			}
			info, err := d.Info()
			if err != nil || l.busy(info.ModTime(), time.Now()) || !part.stale(path) {
				return nil
			}
			return drop(path, info)
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return freed, wrap("clear", s.path(part.dir), err)
		}
	}
	return freed, nil
}

// staleEntry says that an entry cannot serve any more.
func (s *Store) staleEntry(path string) bool {
	v, ok := s.readEntry(path)
	if ok && v.Alias != "" {
		v, ok = s.readEntry(s.entryPath(v.Alias))
	}
	return !ok || v.Entry != nil && !s.hasLayers(v.Entry)
}

// stalePacked says that the record of a packed form is about nothing that is here.
func (s *Store) stalePacked(path string) bool {
	if _, err := os.Lstat(s.path(dirLayers, filepath.Base(filepath.Dir(path)))); err == nil {
		return false // the diff id is what its directory is compared with
	}
	p, ok := readPacked(path)
	if !ok {
		return true
	}
	_, err := os.Lstat(s.BlobPath(p.Digest))
	return err != nil
}

// staleLock says that a file is the lock of a key, left by a process that died. Whoever opens it meanwhile notices that
// the name is another file's.
func (s *Store) staleLock(path string) bool {
	if digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(path)).Validate() != nil {
		return false
	}
	f, err := lockFile(path, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return false
	}
	defer f.Close()
	if sameFile(f, path) {
		os.Remove(path)
	}
	return false
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
