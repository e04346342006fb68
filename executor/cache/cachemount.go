package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Mount is a cache mount in use: a directory that outlives steps.
type Mount struct {
	Dir string
	New bool // not filled yet: the caller fills it, then calls Filled
	// lock is the mount's lock, shared or exclusive; seed is locked until a new mount is filled or released.
	lock, seed *os.File
	item       string // the mount's directory in the cache, which has all its generations
	once       sync.Once
}

// maxPrivate bounds how many users of one private cache mount can run at once.
const maxPrivate = 1024

// CacheMount locks and returns the cache mount with an ID. sharing is "shared" (any number of users), "locked" (one at
// a time) or "private" (concurrent users get separate directories). It waits until ctx ends. With fresh, the mount
// starts empty for the build that fresh belongs to.
func (s *Store) CacheMount(ctx context.Context, id, sharing string, fresh *FreshMounts) (*Mount, error) {
	name := mountName(id)
	switch sharing {
	case "shared", "":
		return s.acquireMount(ctx, name, unix.LOCK_SH, fresh)
	case "locked":
		return s.acquireMount(ctx, name, unix.LOCK_EX, fresh)
	case "private":
		return s.privateMount(name, fresh)
	}
	return nil, fmt.Errorf("cache mount %s: unknown sharing %q (shared, private, locked)", id, sharing)
}

// mountName returns the directory name of a cache mount.
func mountName(id string) string { return digest.FromString(id).Encoded() }

func (s *Store) privateMount(name string, fresh *FreshMounts) (*Mount, error) {
	for i := range maxPrivate {
		n := name
		if i > 0 {
			n = fmt.Sprintf("%s-%d", name, i)
		}
		m, err := s.tryMount(n, unix.LOCK_EX, fresh)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return m, err
		}
	}
	err := fmt.Errorf("all %d private copies are in use", maxPrivate)
	return nil, &Error{Op: "lock a cache mount in", Path: s.path(dirMounts), Err: err}
}

func (s *Store) acquireMount(ctx context.Context, name string, how int, fresh *FreshMounts) (*Mount, error) {
	pause := time.Millisecond
	for {
		m, err := s.tryMount(name, how, fresh)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return m, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
			pause = min(2*pause, 20*time.Millisecond)
		}
	}
}

func (s *Store) tryMount(name string, how int, fresh *FreshMounts) (*Mount, error) {
	dir := s.path(dirMounts, name)
	if err := s.makeFolder(dirMounts + "/" + name); err != nil {
		return nil, wrap("create cache mount", dir, err)
	}
	lock, err := lockFile(filepath.Join(dir, "lock"), how|unix.LOCK_NB)
	if err == nil && !sameFile(lock, filepath.Join(dir, "lock")) {
		lock.Close()
		err = os.ErrNotExist
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, unix.EWOULDBLOCK // evicted by another process between MkdirAll and lockFile: try again
	}
	if err != nil {
		return nil, wrapUnlessBusy("lock cache mount", dir, err)
	}
	s.mu.Lock()
	s.mounts = append(s.mounts, name)
	s.mu.Unlock()
	base, err := fresh.generation(dir)
	if err != nil {
		lock.Close()
		return nil, wrap("start an empty cache mount in", dir, err)
	}
	m := &Mount{Dir: filepath.Join(base, "fs"), lock: lock, item: dir}
	if err := m.openFS(base); err != nil {
		lock.Close()
		return nil, wrapUnlessBusy("open cache mount", dir, err)
	}
	now := time.Now()
	os.Chtimes(dir, now, now)
	return m, nil
}

// openFS creates the directory if it was not filled. Until Filled, only the caller may use it; others get EWOULDBLOCK.
func (m *Mount) openFS(dir string) error {
	if isSeeded(dir) {
		return nil
	}
	seed, err := lockFile(filepath.Join(dir, "seed"), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return err
	}
	if isSeeded(dir) {
		return seed.Close()
	}
	// Remove what an interrupted or failed filling left, and the mark of a damaged mount.
	err = errors.Join(removeTree(filepath.Join(dir, "seeded")), removeTree(m.Dir), os.Mkdir(m.Dir, 0o755),
		os.Chmod(m.Dir, 0o755))
	if err != nil {
		return errors.Join(err, seed.Close())
	}
	m.New, m.seed = true, seed
	return nil
}

// isSeeded reports whether the cache mount in dir is filled. One without its directory fs is damaged.
func isSeeded(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "seeded"))
	info, fsErr := os.Lstat(filepath.Join(dir, "fs"))
	return err == nil && fsErr == nil && info.IsDir()
}

// Filled marks a new mount as filled, so that others may use it. Without it, the next user gets an empty mount to fill:
// an interrupted or failed filling does not count. The files are durable before the mark is created, so that a power
// loss cannot leave a mark without them.
func (m *Mount) Filled() error {
	if m.seed == nil {
		return nil
	}
	dir := filepath.Dir(m.Dir)
	err := syncFiles(m.Dir)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "seeded"), nil, 0o600)
	}
	if err != nil {
		return wrap("mark as filled the cache mount", dir, err)
	}
	m.seed.Close()
	m.seed = nil
	return nil
}

// syncFiles makes the files in a directory durable. It does nothing for an empty directory.
func syncFiles(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return err
	}
	return unix.Syncfs(int(f.Fd()))
}

// Release unlocks the mount.
func (m *Mount) Release() {
	m.once.Do(func() {
		if m.seed != nil {
			m.seed.Close()
		}
		now := time.Now()
		removeReplaced(m.item, m.lock)
		os.Chtimes(m.item, now, now) // a size measured while it was in use is outdated
		m.lock.Close()
	})
}

// SeededMount returns the cache mount with an ID, locked as shared. It returns nil if the mount does not exist, is not
// seeded, or is locked exclusively.
func (s *Store) SeededMount(id string) (*Mount, error) {
	name := digest.FromString(id).Encoded()
	dir := s.path(dirMounts, name)
	if !isSeeded(generation(dir)) {
		return nil, nil
	}
	lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("lock cache mount", dir, err)
	}
	// The generation may be another one than before the lock, which another build fills now.
	base := generation(dir)
	if !isSeeded(base) {
		return nil, wrap("unlock cache mount", dir, lock.Close())
	}
	return &Mount{Dir: filepath.Join(base, "fs"), lock: lock, item: dir}, nil
}

// wrapUnlessBusy is wrap, except that EWOULDBLOCK stays unwrapped: it makes the caller wait.
func wrapUnlessBusy(op, path string, err error) error {
	if errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	return wrap(op, path, err)
}

// HasMount reports whether a cache mount exists and is seeded.
func (s *Store) HasMount(id string) bool {
	return isSeeded(generation(s.path(dirMounts, mountName(id))))
}
