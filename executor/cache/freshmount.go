package cache

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// FreshMounts gives one build new, empty cache mounts in place of those with the same ids. Its methods are safe for
// concurrent use.
//
// The problem: a build with --no-cache starts cache mounts empty, but another build may be using the old files. So the
// files of a mount are in a generation: the directory of the mount itself, or a folder new-* in it that the file
// "current" names. A new generation replaces the old one by a rename of "current". The invariants: a generation is
// removed only when no process holds the mount's lock and it is not the current one; and a build holds the lock "keep"
// of the generations that it started until it closes its FreshMounts. Otherwise a step could lose files under its
// feet, or a later step of the build would miss what an earlier one wrote, because a second build with --no-cache
// replaced them in between. TestFreshMounts has both.
type FreshMounts struct {
	mu   sync.Mutex
	dirs map[string]string // the generations of this build, by name of the mount
	keep []*os.File
}

const (
	currentFile      = "current"
	generationPrefix = "new-"
)

// generation returns the directory that holds the current files of the mount in dir.
func generation(dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, currentFile))
	name := string(raw)
	if err != nil || !strings.HasPrefix(name, generationPrefix) || strings.ContainsRune(name, '/') {
		return dir
	}
	own := filepath.Join(dir, name)
	if info, err := os.Lstat(own); err != nil || !info.IsDir() {
		return dir // damaged
	}
	return own
}

// generation returns the build's generation of the mount in dir, and starts it at the first call. The caller must hold
// the mount's lock. A nil receiver returns the current generation.
func (f *FreshMounts) generation(dir string) (string, error) {
	if f == nil {
		return generation(dir), nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if own, ok := f.dirs[dir]; ok {
		return own, nil
	}
	name := generationPrefix + rand.Text()
	own := filepath.Join(dir, name)
	if err := os.Mkdir(own, 0o700); err != nil {
		return "", err
	}
	keep, err := lockFile(filepath.Join(own, "keep"), unix.LOCK_SH)
	if err != nil {
		return "", err
	}
	f.keep = append(f.keep, keep)
	aside := filepath.Join(own, currentFile)
	if err := os.WriteFile(aside, []byte(name), 0o600); err != nil {
		return "", err
	}
	current := filepath.Join(dir, currentFile)
	if err := os.Rename(aside, current); err != nil { // damaged: a directory is in its place
		if err := errors.Join(removeTree(current), os.Rename(aside, current)); err != nil {
			return "", err
		}
	}
	if f.dirs == nil {
		f.dirs = map[string]string{}
	}
	f.dirs[dir] = own
	return own, nil
}

// Close lets other processes remove the build's generations once they are replaced.
func (f *FreshMounts) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, keep := range f.keep {
		keep.Close()
	}
	f.keep, f.dirs = nil, nil
}

// removeReplaced removes the generations of the mount in dir that were replaced, unless a process uses the mount or
// they belong to a running build. lock is the caller's lock of the mount, which is no longer needed.
func removeReplaced(dir string, lock *os.File) {
	current := generation(dir)
	if current == dir {
		return // nothing was ever replaced
	}
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return
	}
	var errs []error
	for _, name := range []string{"fs", "seeded", "seed"} {
		errs = append(errs, removeTree(filepath.Join(dir, name)))
	}
	entries, err := os.ReadDir(dir)
	errs = append(errs, err)
	for _, e := range entries {
		old := filepath.Join(dir, e.Name())
		if !strings.HasPrefix(e.Name(), generationPrefix) || old == current {
			continue
		}
		keep, err := lockFile(filepath.Join(old, "keep"), unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // of a running build
		}
		errs = append(errs, removeTree(old))
		keep.Close()
	}
	_ = errors.Join(errs...) // the next user tries again, and eviction removes the whole mount
}
