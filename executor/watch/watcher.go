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
	// watched holds what each watched path was when its watch began: see follow.
	watched map[string]inode
	// missed holds the files that changed while planning read them. They may have been read before the change, and
	// before they were watched. wait reports them.
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

// maxPasses bounds how often follow looks for folders that appeared while it added watches. Further ones cause events,
// because the folders above them are watched by then.
const maxPasses = 8

// follow watches the folders of a set, and no others. A watch is on the directory that a path named when the watch
// began, not on the path. If a folder above it was moved and another one took its place, the path names another
// directory now, and the watch would report changes of the moved one. The inode shows that, and the watch is renewed.
// TestWatchLinks in cmd/bake moves such a folder.
//
// A folder may appear after its parent was listed and before the parent is watched. No event reports it, so the set is
// listed again until it has no new folder.
func (w *watcher) follow(ctx context.Context, s set) error {
	w.set = s
	for range maxPasses {
		want, err := s.folders(ctx)
		if err != nil {
			return err
		}
		w.removeExcept(want)
		added, err := w.add(want)
		if err != nil || !added {
			return err
		}
	}
	return nil
}

// removeExcept removes the watches of folders that are not wanted or are no longer what they were.
func (w *watcher) removeExcept(want map[string]bool) {
	have := map[string]inode{}
	for _, dir := range w.fs.WatchList() {
		if at := w.watched[dir]; want[dir] && at == inodeOf(dir) {
			have[dir] = at
		} else {
			_ = w.fs.Remove(dir) // it fails for a directory that no longer exists
		}
	}
	w.watched = have
}

// add watches folders that are not watched yet, and reports whether there were any. A folder that was removed in the
// meantime counts as one, so that the next pass finds the folder above it.
func (w *watcher) add(want map[string]bool) (added bool, err error) {
	for dir := range want {
		if _, ok := w.watched[dir]; ok {
			continue
		}
		added = true
		at := inodeOf(dir)
		err := w.fs.Add(dir)
		switch {
		case err == nil:
			w.watched[dir] = at
		case errors.Is(err, unix.ENOSPC):
			return true, &Error{fmt.Sprintf("watch %d folders: the system does not allow this user so many; "+
				"exclude more files with .dockerignore, or run sysctl -w fs.inotify.max_user_watches=%d",
				len(want), roundedUp(len(want)))}
		case !isMissing(err):
			return true, &Error{fmt.Sprintf("watch %s: %v", dir, err)}
		}
	}
	return added, nil
}

// isMissing reports whether err says that a file does not exist.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// roundedUp returns a power of two of at least twice n.
func roundedUp(n int) int {
	size := 8192
	for size < 2*n {
		size *= 2
	}
	return size
}
