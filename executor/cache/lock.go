package cache

import (
	"context"
	"errors"
	"os"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Lock makes the caller the only one, in any process, that works on a key. It waits until ctx ends. The lock of a
// process that ends is released at once. The caller must call unlock exactly once.
func (s *Store) Lock(ctx context.Context, key digest.Digest) (unlock func(), err error) {
	path := s.path(dirLocks, key.Encoded())
	pause := 200 * time.Microsecond
	for {
		f, err := lockFile(path, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			if sameFile(f, path) {
				return func() { os.Remove(path); f.Close() }, nil
			}
			f.Close() // the previous holder removed the file: the lock must be on the file that the path names now
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

// lockFile opens or creates a file and takes a flock on it. Closing the file releases the lock.
func lockFile(path string, how int) (*os.File, error) {
	f, err := openLock(path)
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

// sameFile reports whether path still names the open file.
func sameFile(f *os.File, path string) bool {
	var open, named unix.Stat_t
	return unix.Fstat(int(f.Fd()), &open) == nil && unix.Stat(path, &named) == nil &&
		open.Ino == named.Ino && open.Dev == named.Dev
}

// openLock opens or creates the file of a lock. A directory or a loop of links in its place is damage, which no process
// can have locked: it is removed.
func openLock(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | unix.O_CLOEXEC
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ELOOP) {
		if err := removeTree(path); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, flags, 0o600)
	}
	return f, err
}
