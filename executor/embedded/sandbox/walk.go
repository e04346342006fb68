package sandbox

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks bounds how many symbolic links one walk follows.
const maxLinks = 255

// walk is a way through a root by descriptor, one component at a time, in which no link leads out. Nothing else changes
// the root while it goes on: the step has not started.
type walk struct {
	fds     []int // of the root and each directory below it on the way
	names   []string
	links   int
	created []point
}

// point is a mount point that was made in the root.
type point struct {
	Path  string // in the root
	Dir   bool
	Owned bool // part of the step's result, such as its working directory
	// Above are the directories on the way to it as they were before, from the root to the one that holds it.
	Above []dirStat
}

// dirStat is what a layer keeps of a directory, apart from its xattrs.
type dirStat struct {
	Mode, UID, GID uint32
	Sec, Nsec      int64 // mtime
	Xattrs         bool  // it has some
}

func statDir(st *unix.Stat_t, xattrs bool) dirStat {
	return dirStat{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, Xattrs: xattrs}
}

// newWalk starts at an open root.
func newWalk(root int) (*walk, error) {
	fd, err := unix.Openat(root, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &walk{fds: []int{fd}}, nil
}

// here is where the walk stands.
func (w *walk) here() string { return "/" + strings.Join(w.names, "/") }

func (w *walk) top() int { return w.fds[len(w.fds)-1] }

func (w *walk) up() {
	if len(w.fds) > 1 {
		unix.Close(w.top())
		w.fds, w.names = w.fds[:len(w.fds)-1], w.names[:len(w.names)-1]
	}
}

// toRoot goes back to the start.
func (w *walk) toRoot() {
	for len(w.fds) > 1 {
		w.up()
	}
}

// maker makes what is missing on a walk; nil means that it is an error.
type maker func(dir int, name string, isDir bool) error

// to goes to a path and returns a descriptor of what is there, which belongs to the walk. What is missing is made: the
// last component as a directory or an empty file, all before as directories.
func (w *walk) to(p string, wantDir bool, make maker) (int, error) {
	w.toRoot()
	rest := strings.Split(p, "/")
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			w.up()
			continue
		}
		target, err := w.step(name, wantDir || !last(rest), make)
		if err != nil {
			return -1, err
		}
		if target == "" {
			continue
		}
		if w.links++; w.links > maxLinks {
			return -1, fmt.Errorf("%s: too many symbolic links", p)
		}
		if strings.HasPrefix(target, "/") {
			w.toRoot()
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return w.top(), nil
}

func last(rest []string) bool {
	for _, c := range rest {
		if c != "" && c != "." {
			return false
		}
	}
	return true
}

// step enters one component; it returns a link's target instead of entering it.
func (w *walk) step(name string, wantDir bool, make maker) (link string, err error) {
	fd, err := unix.Openat(w.top(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) && make != nil {
		if err := w.make(name, wantDir, make); err != nil {
			return "", err
		}
		fd, err = unix.Openat(w.top(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", path.Join(w.here(), name), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return "", err
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		defer unix.Close(fd)
		return readlink(fd)
	case wantDir != (kind == unix.S_IFDIR):
		unix.Close(fd)
		return "", fmt.Errorf("%s: %w", path.Join(w.here(), name), map[bool]error{true: unix.ENOTDIR, false: unix.EISDIR}[wantDir])
	}
	w.fds, w.names = append(w.fds, fd), append(w.names, name)
	return "", nil
}

func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	return string(buf[:n]), err
}

func (w *walk) make(name string, isDir bool, make maker) error {
	above, err := w.above()
	if err != nil {
		return err
	}
	full := path.Join(w.here(), name)
	if err := make(w.top(), name, isDir); err != nil {
		return fmt.Errorf("make mount point %s: %w", full, err)
	}
	w.created = append(w.created, point{Path: full, Dir: isDir, Above: above})
	return nil
}

// above describes the directories that the walk stands in.
func (w *walk) above() ([]dirStat, error) {
	var all []dirStat
	for _, fd := range w.fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, err
		}
		names := make([]byte, 1)
		n, err := unix.Listxattr(fmt.Sprintf("/proc/self/fd/%d", fd), names)
		all = append(all, statDir(&st, n > 0 || err != nil))
	}
	return all, nil
}

// makePoint makes a mount point.
func makePoint(dir int, name string, isDir bool) error {
	if isDir {
		return unix.Mkdirat(dir, name, 0o755)
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
