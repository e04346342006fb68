package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// item is one thing that can be evicted alone: a layer, a blob, a cache mount, a log, a build record, past runs, a
// list of files or a stat index.
type item struct {
	dir, name string // below the cache
	size      int64
	// used is the modification time, which each use updates. targetBuilt is when a target that refers to the item was
	// last built. That build need not have touched the item, so it counts separately.
	used, targetBuilt time.Time
}

// order returns the time of the last use for least recently used order.
func (it item) order() time.Time {
	if it.targetBuilt.After(it.used) {
		return it.targetBuilt
	}
	return it.used
}

// survey is a measurement of the complete cache.
type survey struct {
	items []item
	parts map[string]int64 // bytes by directory, including those with items
	total int64
	now   time.Time
}

// itemDirs lists the directories whose content is evicted item by item. The files in the others are removed when they
// are stale.
var itemDirs = [...]string{dirLayers, dirBlobs, dirMounts, dirLogs, dirBuilds, dirPast, dirLists, dirStat, dirOutputs}

// survey measures the cache. A layer is measured once, a cache mount again after each use.
func (s *Store) survey() (*survey, error) {
	v := &survey{parts: map[string]int64{}, now: time.Now()}
	known, seen, changed := s.readSizes(), sizes{}, false
	for _, dir := range itemDirs {
		names, err := os.ReadDir(s.path(dir))
		if err != nil {
			return nil, wrap("list", s.path(dir), err)
		}
		v.addBlocks(dir, s.path(dir))
		for _, n := range names {
			it := item{dir: dir, name: n.Name()}
			info, err := os.Lstat(s.path(dir, it.name))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, wrap("measure", s.path(dir, it.name), err)
			}
			it.used = info.ModTime()
			key := it.sizeKey()
			size, ok := known[key]
			if !ok || !info.IsDir() {
				var whole bool
				if size, whole, err = diskSize(s.path(dir, it.name)); err != nil {
					return nil, wrap("measure", s.path(dir, it.name), err)
				}
				ok = whole
				changed = changed || info.IsDir() && whole
			}
			if ok && info.IsDir() {
				seen[key] = size
			}
			it.size = size
			v.items = append(v.items, it)
			v.parts[dir] += size
			v.total += size
		}
	}
	if changed || len(seen) != len(known) {
		// Do not fail on a full disk: this survey may be part of freeing it. The next one measures again.
		if err := s.writeSizes(seen); err != nil && !DiskFull(err) {
			return nil, wrap("write", s.path(fileSizes), err)
		}
	}
	return v, s.surveyRest(v)
}

// surveyRest measures the files and directories without items.
func (s *Store) surveyRest(v *survey) error {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return wrap("list", s.dir, err)
	}
	for _, n := range names {
		name := n.Name()
		if slices.Contains(itemDirs[:], name) || name == dirOCI {
			continue
		}
		size, _, err := diskSize(s.path(name))
		if err != nil {
			return wrap("measure", s.path(name), err)
		}
		v.parts[name] += size
		v.total += size
	}
	for _, path := range []string{s.indexPath(), s.path(dirOCI, "oci-layout"), s.path(dirOCI),
		filepath.Dir(s.path(dirBlobs))} {
		v.addBlocks(dirBlobs, path)
	}
	v.addBlocks(dirTmp, s.dir)
	return nil
}

// addBlocks adds the blocks of a file or directory, without the content of the directory.
func (v *survey) addBlocks(part, path string) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil {
		v.parts[part] += st.Blocks * 512
		v.total += st.Blocks * 512
	}
}

// sizeKey returns the key of an item in sizes.
func (it item) sizeKey() string {
	key := it.dir + "/" + it.name
	if it.dir == dirMounts {
		key += fmt.Sprintf("@%d", it.used.UnixNano())
	}
	return key
}

// freeable returns the items that may be evicted, least recently used first. It excludes roots and everything that a
// running process may be using.
func (v *survey) freeable(roots map[digest.Digest]bool, l leases) []item {
	var list []item
	for _, it := range v.items {
		if it.isRoot(roots) || l.busy(it.used, v.now) {
			continue
		}
		if it.used.After(v.now) {
			it.used = v.now
		}
		list = append(list, it)
	}
	slices.SortFunc(list, func(a, b item) int {
		if c := a.order().Compare(b.order()); c != 0 {
			return c
		}
		return strings.Compare(filepath.Join(a.dir, a.name), filepath.Join(b.dir, b.name))
	})
	return list
}

func (it item) isRoot(roots map[digest.Digest]bool) bool {
	return it.dir == dirBlobs && roots[digest.NewDigestFromEncoded(digest.SHA256, it.name)]
}
