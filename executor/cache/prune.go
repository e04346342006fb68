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

// PruneOptions selects what Prune removes: an item that meets any of the conditions.
type PruneOptions struct {
	KeepBytes int64         // if positive: evict until the cache occupies at most this
	OlderThan time.Duration // if positive: evict items not used for this long
	All       bool          // evict everything evictable except build history
}

// Pruned describes what was removed, and the size of the cache afterwards.
type Pruned struct {
	Bytes int64
	Items int
	Total int64
}

// Prune removes items, least recently used first. It keeps what tagged images and pins need, and everything that a
// running process, including this one, has used.
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
		return o.All && !it.isHistory() ||
			o.KeepBytes > 0 && total > o.KeepBytes ||
			o.OlderThan > 0 && v.now.Sub(it.order()) > o.OlderThan
	})
	return done, errors.Join(err, s.forgetLedger())
}

// isHistory reports whether an item is about earlier builds: a build record, past runs, a list of files or what
// outputs wrote. They are small, and are meant to outlive the results they describe.
func (it item) isHistory() bool {
	return it.dir == dirBuilds || it.dir == dirPast || it.dir == dirLists || it.dir == dirOutputs
}

// Freeable returns how many bytes Prune with All would free after this process has ended.
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

// evictable returns the items that may be evicted, in order.
func (s *Store) evictable(v *survey, l leases) ([]item, error) {
	roots, err := s.rootBlobs()
	if err != nil {
		return nil, err
	}
	s.setTargetBuilt(v)
	return v.freeable(roots, l), nil
}

// prune removes, in order, the items for which evict returns true, given the size of the cache at that moment. Then it
// removes stale files.
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

// removeItem removes an item and reports whether it did. It keeps one that was used since it was measured, and a cache
// mount in use.
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

// sweep removes files that have become stale: entries without their layers, aliases without an entry, records of blobs
// that are gone, locks without a holder, and records about projects or lock files that no longer exist. A file
// written after the oldest lease is kept: a running build may be about to commit what it refers to. sweep returns the
// bytes freed.
func (s *Store) sweep(l leases) (int64, error) {
	var freed int64
	drop := func(path string, info os.FileInfo) error {
		err := os.Remove(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			freed += onDisk(info.Size())
			os.Remove(filepath.Dir(path)) // succeeds only if the directory is empty
		}
		return err
	}
	type part struct {
		dir   string
		stale func(path string) bool
	}
	parts := []part{
		{s.path(dirPacked), s.stalePacked}, {s.path(dirLocks), s.staleLock}, {s.path(dirTargets), s.staleProject},
		{s.path(dirPins), s.stalePins},
	}
	for _, t := range s.entrySets() {
		parts = append(parts, part{filepath.Join(t.root, dirEntries), t.stale},
			part{filepath.Join(t.root, dirCandidates), t.stale})
	}
	for _, part := range parts {
		err := filepath.WalkDir(part.dir, func(path string, d os.DirEntry, err error) error {
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
			return freed, wrap("clear", part.dir, err)
		}
	}
	s.dropEmptySets()
	return freed, nil
}

// stalePacked reports whether the record of a blob refers to neither a layer nor a blob that exists.
func (s *Store) stalePacked(path string) bool {
	if _, err := os.Lstat(s.path(dirLayers, filepath.Base(filepath.Dir(path)))); err == nil {
		return false // Check compares the layer's directory with the diff ID in this record
	}
	p, ok := readPacked(path)
	if !ok {
		return true
	}
	_, err := os.Lstat(s.BlobPath(p.Digest))
	return err != nil
}

// staleLock removes the lock file of a key whose holder was killed. It always returns false, since the removal must
// happen while the lock is held. A process that opens the file meanwhile notices that the name refers to another file
// (see sameFile).
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

// hasLayers is useLayers without marking the layers as used.
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
