package cache

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

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

// moveAside moves a thing out of sight while no process is in the middle of finding something, unless it was used after
// a time.
func (s *Store) moveAside(path, aside string, used time.Time) (bool, error) {
	exclusive, err := lockFile(s.path(dirLocks, "gate"), unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer exclusive.Close()
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.ModTime().After(used) && !info.ModTime().After(time.Now()) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, os.Rename(path, aside)
}
