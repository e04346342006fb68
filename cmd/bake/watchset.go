package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// watchSet is what a build reads: single files, and parts of build contexts. Its paths lead through no links, and the links that lead
// there are among the files: a watch is on what a path was when it began, and events have the path that it was begun with.
type watchSet struct {
	files    map[string]bool // absolute, that need not exist
	contexts []watchedContext
}

// watchedContext is a build context, as one source step reads it.
type watchedContext struct {
	dir      string
	excludes []string
	reads    []string // paths in it, without wildcards; none: all of it
	ignore   *patternmatcher.PatternMatcher
}

// newWatchSet takes from a graph what it reads of this machine; g may be nil.
func newWatchSet(files []string, g *planner.Graph) (watchSet, error) {
	w := watchSet{files: map[string]bool{}}
	w.add(files)
	if g == nil {
		return w, nil
	}
	w.add(g.Files)
	reads := g.Reads()
	for _, s := range g.Steps {
		source := s.Op.GetSource()
		name, ok := strings.CutPrefix(source.GetIdentifier(), "local://")
		if !ok {
			continue
		}
		var excludes []string
		if list := source.Attrs[pb.AttrExcludePatterns]; list != "" {
			if err := json.Unmarshal([]byte(list), &excludes); err != nil {
				return w, fmt.Errorf("ignore patterns of %s: %w", g.Locals[name].Dir, err)
			}
		}
		way := throughLinks("/", g.Locals[name].Dir)
		for _, link := range way[:len(way)-1] {
			w.files[link] = true
		}
		c, err := newWatchedContext(way[len(way)-1], excludes, reads[s])
		if err != nil {
			return w, err
		}
		w.contexts = append(w.contexts, c)
	}
	return w, nil
}

// add adds files, the links that lead to them, and what these lead to.
func (w watchSet) add(files []string) {
	for _, f := range files {
		for _, p := range throughLinks("/", f) {
			w.files[p] = true
		}
	}
}

// maxLinks bounds how many links a path may lead through.
const maxLinks = 40

// throughLinks are the links on the way to a path below root, and at last where it leads, which need not be there. No link leads out
// of root.
func throughLinks(root, path string) []string {
	var all []string
	at, rest := "/", strings.Split(path, "/")
	for len(rest) > 0 {
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		to, err := os.Readlink(filepath.Join(root, next))
		if err != nil || len(all) == maxLinks {
			at = next
			continue
		}
		all = append(all, filepath.Join(root, next))
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return append(all, filepath.Join(root, at))
}

func newWatchedContext(dir string, excludes, reads []string) (watchedContext, error) {
	c := watchedContext{dir: dir, excludes: excludes}
	for _, p := range reads {
		for _, at := range throughLinks(dir, beforeWildcard(p)) {
			rel, err := filepath.Rel(dir, at)
			if err != nil {
				return c, err
			}
			c.reads = append(c.reads, rel)
		}
	}
	var err error
	if len(excludes) > 0 {
		if c.ignore, err = patternmatcher.New(excludes); err != nil {
			err = fmt.Errorf("ignore patterns of %s: %w", dir, err)
		}
	}
	return c, err
}

// beforeWildcard is the part of a path before the first component with a wildcard.
func beforeWildcard(p string) string {
	parts := strings.Split(p, "/")
	if i := slices.IndexFunc(parts, func(c string) bool { return strings.ContainsAny(c, `*?[\`) }); i >= 0 {
		parts = parts[:i]
	}
	return strings.Join(parts, "/")
}

// concerns says whether a change of a path may change what is built.
func (w watchSet) concerns(path string) bool {
	return w.files[path] || slices.ContainsFunc(w.contexts, func(c watchedContext) bool { return c.concerns(path) })
}

func (c watchedContext) concerns(path string) bool {
	rel, err := filepath.Rel(c.dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return false
	}
	read := len(c.reads) == 0 || slices.ContainsFunc(c.reads, func(p string) bool { return within(rel, p) || within(p, rel) })
	if !read || c.ignore == nil {
		return read
	}
	ignored, err := c.ignore.MatchesOrParentMatches(rel)
	return err != nil || !ignored
}

// changedSince are the single files that were written since.
func (w watchSet) changedSince(t time.Time) []string {
	var all []string
	for f := range w.files {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(t) {
			all = append(all, f)
		}
	}
	return all
}

// within says whether a relative path is dir or lies below it.
func within(path, dir string) bool {
	return dir == "" || dir == "." || path == dir || strings.HasPrefix(path, dir+"/")
}

// folders are the directories in which what concerns the build can change.
func (w watchSet) folders(ctx context.Context) (map[string]bool, error) {
	all := map[string]bool{}
	for f := range w.files {
		all[nearestDir(filepath.Dir(f))] = true
	}
	for _, c := range w.contexts {
		if err := c.folders(ctx, all); err != nil {
			return nil, fmt.Errorf("watch %s: %w", c.dir, err)
		}
	}
	return all, nil
}

// nearestDir is the directory, or the nearest one above it that is there.
func nearestDir(dir string) string {
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// folders adds those of a context: all below what is read, without what is ignored, and those on the way to it.
func (c watchedContext) folders(ctx context.Context, all map[string]bool) error {
	files, err := tree.OpenLocal(ctx, c.dir, c.excludes, nil)
	if err != nil {
		return err
	}
	defer files.Close()
	reads := c.reads
	if len(reads) == 0 {
		reads = []string{""}
	}
	for _, p := range reads {
		at := c.dir
		all[at] = true
		for part := range strings.SplitSeq(p, "/") {
			at = filepath.Join(at, part)
			if info, err := os.Lstat(at); err != nil || !info.IsDir() {
				break
			}
			all[at] = true
		}
		if err := c.below(ctx, files, "/"+p, all); err != nil {
			return err
		}
	}
	return nil
}

func (c watchedContext) below(ctx context.Context, files *tree.Local, path string, all map[string]bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e, err := files.Lookup(path)
	if err != nil || !e.IsDir() {
		return notThere(err)
	}
	entries, err := files.ReadDir(path)
	if err != nil {
		return notThere(err)
	}
	all[filepath.Join(c.dir, path)] = true
	for _, e := range entries {
		if e.IsDir() {
			if err := c.below(ctx, files, e.Path, all); err != nil {
				return err
			}
		}
	}
	return nil
}

// notThere is nil for what has gone meanwhile, which is a change that will be told.
func notThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// inode is which directory a path names.
type inode struct{ dev, number uint64 }

// inodeOf is that of a directory, the zero value where there is none.
func inodeOf(dir string) inode {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return inode{}
	}
	return inode{uint64(st.Dev), st.Ino}
}

// follow makes the watcher watch these directories and no others. watched is what their paths named when they came to be watched: where
// another one stands there now, because one above it was moved, that one is watched.
func follow(w *fsnotify.Watcher, watched map[string]inode, wanted map[string]bool) error {
	have := map[string]bool{}
	for _, dir := range w.WatchList() {
		if wanted[dir] && watched[dir] == inodeOf(dir) {
			have[dir] = true
			continue
		}
		_ = w.Remove(dir) // it may have gone
		delete(watched, dir)
	}
	for dir := range wanted {
		if have[dir] {
			continue
		}
		watched[dir] = inodeOf(dir)
		err := w.Add(dir)
		switch {
		case errors.Is(err, unix.ENOSPC):
			return &watchError{fmt.Sprintf("%d directories must be watched, more than the system allows a user: raise fs.inotify.max_user_watches "+
				"(sysctl -w fs.inotify.max_user_watches=%d), or leave more out with .dockerignore", len(wanted), roundedUp(len(wanted)))}
		case notThere(err) != nil:
			return &watchError{fmt.Sprintf("watch %s: %v", dir, err)}
		}
	}
	return nil
}

// roundedUp is a power of two with room for as many watches again.
func roundedUp(n int) int {
	size := 8192
	for size < 2*n {
		size *= 2
	}
	return size
}

// watchError says that changes of files cannot be seen here.
type watchError struct{ what string }

// Error implements error.
func (e *watchError) Error() string { return e.what }
