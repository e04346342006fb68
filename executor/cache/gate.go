package cache

// The gate keeps one process from removing an item that another has just found.
//
// To use an item, a process holds the flock on locks/gate shared while it checks that the item exists and sets its
// modification time (see Store.use). To remove an item, a process holds the same lock exclusively, reads the
// modification time again and renames the item away unless it was used after it was measured.
//
// Invariant: between finding an item and recording its use, no process removes it. Without the gate, Lookup could
// return an entry whose layer is gone a moment later, and a step would fail to mount it.
//
// The cost is one flock for the first of several concurrent lookups in a process. A removal holds the gate for one stat
// and one rename; the tree is deleted afterwards. TestEightProcesses in executor/embedded builds, prunes, collects and
// repairs concurrently.

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// gate holds the lock locks/gate shared for all goroutines of this process, which share one open file and so one
// flock.
type gate struct {
	mu   sync.Mutex
	file *os.File
	in   int // goroutines between enter and leave
}

func (g *gate) open(path string) error {
	f, err := openLock(path)
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

// leave undoes one enter. The last one releases the lock.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.in--; g.in == 0 {
		unix.Flock(int(g.file.Fd()), unix.LOCK_UN)
	}
}

// moveAside renames path to aside and reports whether it did. It leaves alone what is gone or was used after the given
// time. A time in the future does not count as a use: the clock was set back.
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
