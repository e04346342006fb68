package cache

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Lock makes this caller the only one, in any process, that works on a key. It waits until ctx ends. The lock of a
// process that died is free at once. unlock must be called once.
func (s *Store) Lock(ctx context.Context, key digest.Digest) (unlock func(), err error) {
	path := s.path(dirLocks, key.Encoded())
	pause := 200 * time.Microsecond
	for {
		f, err := lockFile(path, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			if sameFile(f, path) {
				return func() { os.Remove(path); f.Close() }, nil
			}
			f.Close() // its holder removed it in between
			continue
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &Error{Op: "lock", Path: path, Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
			pause = min(2*pause, 5*time.Millisecond)
		}
	}
}

// lockFile opens or makes a file and takes a flock on it, which ends when the file is closed.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sameFile says whether path still names the open file.
func sameFile(f *os.File, path string) bool {
	var open, named unix.Stat_t
	return unix.Fstat(int(f.Fd()), &open) == nil && unix.Stat(path, &named) == nil &&
		open.Ino == named.Ino && open.Dev == named.Dev
}

// gate keeps a prune in one process from removing what another has just found: finding holds it shared, the removal of
// one thing holds it alone. It counts the holders of this process, since they share one flock.
type gate struct {
	mu   sync.Mutex
	file *os.File
	in   int
}

func (g *gate) open(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	g.file = f
	return err
}

func (g *gate) close() error { return g.file.Close() }

// enter holds the gate shared until leave.
func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.in == 0 {
		if err := unix.Flock(int(g.file.Fd()), unix.LOCK_SH); err != nil {
			return err
		}
	}
	g.in++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.in--; g.in == 0 {
		unix.Flock(int(g.file.Fd()), unix.LOCK_UN)
	}
}
