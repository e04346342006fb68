package sandbox

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is the number of symbolic links that the walks of one step follow.
const maxLinks = 255

// walk resolves paths inside a root.
//
// The problem: the root is hostile. An image may hold a symbolic link from the destination of a mount to a path of the
// machine, such as /run/secrets -> /etc. If the kernel resolved the path, the mountpoint would be created there, or the
// mount attached there.
//
// The idea: walk opens one component at a time with O_NOFOLLOW, relative to the descriptor of its parent. It reads
// links itself and resolves them against the root; ".." at the root stays there. A mount is attached to the descriptor,
// never to a path. tree.Resolve does not suit: it returns a path, and the caller would have to open that path again.
//
// The invariant: each descriptor of the stack is a directory or file below the root. Between two system calls nothing
// changes the root, because the step has not started. TestLinks shows that absolute and relative links end inside the
// root, and that a loop is an error. The case CVE-2021-30465 of the hostile tests in cmd/bake is an attack.
type walk struct {
	fds     []int // the root, then each component down to the current location
	names   []string
	links   int
	created []createdMountpoint
}

// createdMountpoint is a mountpoint that was missing in the root and that a walk created.
type createdMountpoint struct {
	Path   string // in the root, without links
	Dir    bool
	Result bool // part of the step's result, such as its working directory: it is not removed
	// Parents are the parent directories as they were before, from the root to the one that holds the mountpoint.
	Parents []dirStat
}

// dirStat holds the attributes of a directory that a layer stores, except the values of its xattrs.
type dirStat struct {
	Mode, UID, GID uint32
	Sec, Nsec      int64 // mtime
	Xattrs         bool  // the directory has xattrs
}

func statDir(st *unix.Stat_t, xattrs bool) dirStat {
	return dirStat{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, Xattrs: xattrs}
}

// newWalk returns a walk at an open root.
func newWalk(root int) (*walk, error) {
	fd, err := unix.Openat(root, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &walk{fds: []int{fd}}, nil
}

// location returns the current path in the root, without links.
func (w *walk) location() string { return "/" + strings.Join(w.names, "/") }

func (w *walk) top() int { return w.fds[len(w.fds)-1] }

func (w *walk) up() {
	if len(w.fds) > 1 {
		unix.Close(w.top())
		w.fds, w.names = w.fds[:len(w.fds)-1], w.names[:len(w.names)-1]
	}
}

// toRoot returns to the root and closes the descriptors below it.
func (w *walk) toRoot() {
	for len(w.fds) > 1 {
		w.up()
	}
}

// createFunc creates a missing component in the directory dir.
type createFunc func(dir int, name string, isDir bool) error

// to walks from the root to a path and returns a descriptor of the file there. The walk owns the descriptor and closes
// it with the next call. Missing components are created: the last one as a directory or an empty file, the others as
// directories. If create is nil, a missing component is an error.
func (w *walk) to(p string, wantDir bool, create createFunc) (int, error) {
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
		target, err := w.step(name, wantDir || !last(rest), create)
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

// last reports whether no component follows.
func last(rest []string) bool {
	for _, c := range rest {
		if c != "" && c != "." {
			return false
		}
	}
	return true
}

// step enters one component. If that is a link, it returns the target and does not enter.
func (w *walk) step(name string, wantDir bool, create createFunc) (link string, err error) {
	fd, err := unix.Openat(w.top(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) && create != nil {
		if err := w.create(name, wantDir, create); err != nil {
			return "", err
		}
		fd, err = unix.Openat(w.top(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", path.Join(w.location(), name), err)
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
		kindErr := map[bool]error{true: unix.ENOTDIR, false: unix.EISDIR}[wantDir]
		return "", fmt.Errorf("%s: %w", path.Join(w.location(), name), kindErr)
	}
	w.fds, w.names = append(w.fds, fd), append(w.names, name)
	return "", nil
}

func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	return string(buf[:n]), err
}

// create creates a missing component and records it.
func (w *walk) create(name string, isDir bool, create createFunc) error {
	parents, err := w.parents()
	if err != nil {
		return err
	}
	full := path.Join(w.location(), name)
	if err := create(w.top(), name, isDir); err != nil {
		return fmt.Errorf("create mountpoint %s: %w", full, err)
	}
	w.created = append(w.created, createdMountpoint{Path: full, Dir: isDir, Parents: parents})
	return nil
}

// parents describes the directories from the root to the current location.
func (w *walk) parents() ([]dirStat, error) {
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

// createMountpoint creates an empty directory or file. It is a createFunc.
func createMountpoint(dir int, name string, isDir bool) error {
	if isDir {
		return unix.Mkdirat(dir, name, 0o755)
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
