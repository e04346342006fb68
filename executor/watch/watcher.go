package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// A change is reported when files have been quiet for quietTime, and at the latest after maxWait.
const (
	quietTime = 100 * time.Millisecond
	maxWait   = 2 * time.Second
)

// overflow is reported as a path if the kernel dropped events, so the files are not known.
const overflow = "unknown files (too many changes at once)"

// Error reports that this system cannot watch the files.
type Error struct{ text string }

// Error implements error.
func (e *Error) Error() string { return e.text }

// watcher watches the folders of a set.
type watcher struct {
	fs  *fsnotify.Watcher
	set set
	// watched holds what each path was when its watch began: see follow.
	watched map[string]inode
	// missed has files that changed after they were read and before they were watched. wait reports them.
	missed []string
}

func newWatcher() (*watcher, error) {
	events, err := fsnotify.NewWatcher()
	if errors.Is(err, unix.EMFILE) {
		return nil, &Error{"watch files: this user has no inotify instance left; " +
			"end other programs that watch files, or raise fs.inotify.max_user_instances"}
	}
	if err != nil {
		return nil, &Error{"watch files: " + err.Error()}
	}
	return &watcher{fs: events, watched: map[string]inode{}}, nil
}

func (w *watcher) close() { _ = w.fs.Close() }

// folders returns the number of folders that are watched.
func (w *watcher) folders() int { return len(w.fs.WatchList()) }

// wait returns the files of the set that changed, once they are quiet. Events that arrived since the last wait count.
func (w *watcher) wait(ctx context.Context) ([]string, error) {
	changed := map[string]bool{}
	var quiet, most <-chan time.Time
	for _, f := range w.missed {
		changed[f] = true
		quiet = time.After(quietTime)
	}
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case e := <-w.fs.Events:
			if !w.set.concerns(e.Name) {
				continue
			}
			changed[e.Name] = true
			if quiet = time.After(quietTime); most == nil {
				most = time.After(maxWait)
			}
		case err := <-w.fs.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return nil, &Error{"watch files: " + err.Error()}
			}
			changed[overflow] = true
			quiet = time.After(quietTime)
		case <-quiet:
			return slices.Sorted(maps.Keys(changed)), nil
		case <-most:
			return slices.Sorted(maps.Keys(changed)), nil
		}
	}
}

// inode identifies the directory that a path names.
type inode struct{ dev, number uint64 }

// inodeOf returns the zero inode for a path that does not exist.
func inodeOf(dir string) inode {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return inode{}
	}
	return inode{uint64(st.Dev), st.Ino}
}

// follow watches the folders of a set, and no others. A watch is on the directory that a path named when the watch
// began, not on the path. If a folder above it was moved and another one took its place, the path names another
// directory now, and the watch would report changes of the moved one. The inode shows that, and the watch is renewed.
// TestWatchLinks moves such a folder.
func (w *watcher) follow(ctx context.Context, s set) error {
	want, err := s.folders(ctx)
	if err != nil {
		return err
	}
	w.set = s
	have := map[string]bool{}
	for _, dir := range w.fs.WatchList() {
		if want[dir] && w.watched[dir] == inodeOf(dir) {
			have[dir] = true
			continue
		}
		_ = w.fs.Remove(dir) // it fails for a directory that no longer exists
		delete(w.watched, dir)
	}
	for dir := range want {
		if have[dir] {
			continue
		}
		w.watched[dir] = inodeOf(dir)
		err := w.fs.Add(dir)
		switch {
		case errors.Is(err, unix.ENOSPC):
			return &Error{fmt.Sprintf("watch %d folders: the system does not allow this user so many; "+
				"exclude more files with .dockerignore, or run sysctl -w fs.inotify.max_user_watches=%d",
				len(want), roundedUp(len(want)))}
		case ignoreMissing(err) != nil:
			return &Error{fmt.Sprintf("watch %s: %v", dir, err)}
		}
	}
	return nil
}

// ignoreMissing returns nil for the error that a file does not exist. If it was removed meanwhile, its folder is
// watched and reports the change.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// roundedUp returns a power of two of at least twice n.
func roundedUp(n int) int {
	size := 8192
	for size < 2*n {
		size *= 2
	}
	return size
}
