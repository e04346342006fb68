// Package scratch finds a place for the layers of a build whose cache is on a file system that cannot hold them, such
// as the overlayfs of a container or a FUSE file system. See cache.Store.UnpackIn for what a build does there.
package scratch

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/schedule"
)

// Place is a directory for layers, for this process only.
type Place struct {
	Dir    string
	cache  string   // the kind of file system of the cache
	kind   string   // that of Dir
	memory int64    // the size of Dir if it is in memory
	lock   *os.File // a lock on Dir; nil if Dir is in memory
}

// ErrMounts means that the layers must be in memory, and that this process may not mount that without a mount namespace
// of its own; see sandbox.EnterMounts.
var ErrMounts = errors.New("no mount namespace of its own")

// Options says where to look.
type Options struct {
	CacheDir string
	// Dirs are parents of the directory, the best one first. If layers can be on none of them, they are in memory.
	Dirs []string
}

// Dirs returns the usual parents: TMPDIR if it is set, /var/tmp and /tmp.
func Dirs(tmpdir string) []string {
	dirs := []string{"/var/tmp", "/tmp"}
	if filepath.IsAbs(tmpdir) {
		dirs = append([]string{tmpdir}, dirs...)
	}
	return dirs
}

// Find returns a place for layers, or nil if they can be in the cache, or nowhere. In the last case a step reports what
// is missing. On usual file systems it costs one system call.
func Find(o Options) (*Place, error) {
	near, err := cache.Nearest(o.CacheDir)
	if err != nil || cache.HoldsLayers(near) {
		return nil, nil // opening the cache reports the error
	}
	if holds(near) {
		return nil, nil
	}
	kind := cache.FileSystem(near)
	for _, dir := range o.Dirs {
		if p := below(dir); p != nil {
			p.cache = kind
			return p, nil
		}
	}
	p, err := inMemory(o.CacheDir)
	if p != nil {
		p.cache = kind
	}
	return p, err
}

// prefix begins the names of places.
const prefix = "bake-layers-"

// trialPrefix begins the names of directories in which holds tries an overlay.
const trialPrefix = ".bake-trial-"

// holds reports whether layers can be on the file system of a directory. It also removes what a killed process left of
// a trial, which takes milliseconds.
func holds(dir string) bool {
	old, _ := filepath.Glob(filepath.Join(dir, trialPrefix+"*")) // the pattern is valid
	for _, path := range old {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > time.Minute {
			removeAll(path)
		}
	}
	trial, err := os.MkdirTemp(dir, trialPrefix)
	if err != nil {
		return false
	}
	defer removeAll(trial)
	return sandbox.TryOverlay(trial, idmap.InNamespace()) == nil
}

// below returns a place on disk, or nil if layers cannot be in a directory. Some steps run programs from a layer
// without an overlay, so the file system must permit that.
func below(parent string) *Place {
	var st unix.Statfs_t
	const forbids = unix.ST_NOEXEC | unix.ST_NOSUID | unix.ST_RDONLY
	if unix.Statfs(parent, &st) != nil || st.Flags&forbids != 0 {
		return nil
	}
	sweep(parent)
	if !holds(parent) {
		return nil
	}
	dir, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return nil
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil // a sweep was faster than the lock
	}
	return &Place{Dir: dir, kind: cache.FileSystem(dir), lock: lock}
}

// lockDir locks a directory of this user. The kernel releases the lock when the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st, now unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && int(st.Uid) != os.Geteuid() {
		err = fs.ErrPermission
	}
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = unix.Lstat(dir, &now)
	}
	if err == nil && (st.Ino != now.Ino || st.Dev != now.Dev) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweep removes the places of this user's processes that were killed.
func sweep(parent string) {
	old, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range old {
		if lock, err := lockDir(dir); err == nil {
			removeAll(dir)
			lock.Close()
		}
	}
}

// mountpoint is the name of a directory in the cache on which memory is mounted.
const mountpoint = "unpacked"

// inMemory returns a place in memory: a tmpfs that only this process and its steps see, and that ends with them. It
// takes at most half of what is available.
func inMemory(cacheDir string) (*Place, error) {
	if !sandbox.OwnMounts() {
		if os.Geteuid() != 0 || sandbox.CheckRoot() != nil {
			return nil, nil // mounts are not permitted at all
		}
		return nil, ErrMounts
	}
	p := &Place{Dir: filepath.Join(cacheDir, mountpoint), kind: "memory", memory: schedule.AvailableMemory() / 2}
	if p.memory >= math.MaxInt64/2 {
		p.memory = 1 << 30
	}
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return nil, nil // opening the cache reports it
	}
	if sandbox.MountMemory(p.Dir, p.memory) != nil || !holds(p.Dir) {
		return nil, nil
	}
	return p, nil
}

// Use makes a store keep its layers here.
func (p *Place) Use(s *cache.Store) error {
	if p == nil {
		return nil
	}
	return s.UnpackIn(p.Dir, sandbox.HintCache)
}

// Close removes the directory.
func (p *Place) Close() error {
	if p == nil || p.lock == nil {
		return nil
	}
	removeAll(p.Dir)
	return p.lock.Close()
}

// removeAll removes a tree as far as possible; the next process tries again. On FUSE, root of a user namespace cannot
// empty a directory without permissions, such as one that overlayfs leaves.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// Cause says why there is a place, and what that means.
func (p *Place) Cause() string {
	where := filepath.Dir(p.Dir)
	if p.memory > 0 {
		where = "memory (at most " + units.HumanSizeWithPrecision(float64(p.memory), 3) + ")"
	}
	return fmt.Sprintf("the cache directory is on %s, which cannot hold layers: builds are slower, "+
		"because they unpack layers in %s and copy them into the cache", p.cache, where)
}

// Remedy says how builds become fast.
func (p *Place) Remedy() string { return sandbox.HintCache }
