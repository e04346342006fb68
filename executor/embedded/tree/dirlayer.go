package tree

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dirLayer reads a layer in directory form: overlayfs's conventions, every path by descriptor below root, no link
// followed.
type dirLayer struct{ root *os.File }

func openDirLayer(dir string) (*dirLayer, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &dirLayer{f}, nil
}

// openAt opens a path below root. Neither the path nor a link in it can lead out.
func openAt(root *os.File, p string, flags int) (int, error) {
	rel := strings.TrimPrefix(p, "/")
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(root.Fd()), rel, &how)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
			// A link or a file stands where the path needs a directory: below it there is nothing.
			return -1, &fs.PathError{Op: "open", Path: p, Err: unix.ENOENT}
		case err != nil:
			return -1, &fs.PathError{Op: "open", Path: p, Err: err}
		}
		return fd, nil
	}
}

func (l *dirLayer) node(p string) (Node, bool, error) {
	fd, err := openAt(l.root, p, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) {
		return Node{}, false, nil
	}
	if err != nil {
		return Node{}, false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Node{}, false, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	n, err := nodeOf(fd, "", p, &st)
	return n, err == nil, err
}

// nodeOf makes a node of a file: of fd itself when name is empty, else of name in the directory fd.
func nodeOf(fd int, name, p string, st *unix.Stat_t) (Node, error) {
	n := Node{Entry: entryOf(p, st)}
	switch {
	case n.Entry.Type() == unix.S_IFCHR && st.Rdev == 0:
		return Node{Entry: Entry{Path: p}, Whiteout: true}, nil
	case n.Entry.IsLink():
		target, err := readlinkAt(fd, name)
		if err != nil {
			return n, &fs.PathError{Op: "readlink", Path: p, Err: err}
		}
		n.Entry.Link = target
	case n.Entry.IsDir():
		n.Opaque = isOpaque(fd, name)
	}
	return n, nil
}

func entryOf(p string, st *unix.Stat_t) Entry {
	e := Entry{
		Path: p, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: time.Unix(st.Mtim.Unix()),
		Rdev: st.Rdev, Inode: st.Ino, Nlink: uint32(st.Nlink),
	}
	if e.IsRegular() {
		e.Size = st.Size
	}
	return e
}

func readlinkAt(fd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Touches says whether a layer's directory form has anything at one of some names of its root, or hides all that is below it. What cannot
// be told counts as touched.
func Touches(dir string, names map[string]bool) bool {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(root)
	for name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(root, name, &st, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.ENOENT) {
			return true
		}
	}
	return isOpaque(root, "")
}

// isOpaque says whether a directory has overlayfs's opaque mark.
func isOpaque(fd int, name string) bool {
	self := procPath(fd, name)
	var buf [8]byte
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		if n, err := unix.Lgetxattr(self, attr, buf[:]); err == nil && n == 1 && buf[0] == 'y' {
			return true
		}
	}
	return false
}

// procPath names an open file, or a name in an open directory, for calls that take no descriptor. Its last component is
// never followed when name is set.
func procPath(fd int, name string) string {
	self := "/proc/self/fd/" + itoa(fd)
	if name == "" {
		return self + "/."
	}
	return self + "/" + name
}

func (l *dirLayer) list(p string) ([]Node, error) {
	fd, err := openAt(l.root, p, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d := os.NewFile(uintptr(fd), p)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := make([]Node, 0, len(names))
	for _, name := range names {
		child := path.Join(p, name)
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, &fs.PathError{Op: "stat", Path: child, Err: err}
		}
		n, err := nodeOf(fd, name, child, &st)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// open opens a regular file for reading.
func (l *dirLayer) open(p string) (*os.File, error) {
	// O_NONBLOCK: a FIFO that stands there is refused below, not waited for.
	fd, err := openAt(l.root, p, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "open", Path: p, Err: errors.Join(errNotRegular, err)}
	}
	return os.NewFile(uintptr(fd), p), nil
}

var errNotRegular = errors.New("not a regular file")

// xattrs reads the attributes that a copy keeps.
func (l *dirLayer) xattrs(p string) (map[string][]byte, error) {
	fd, err := openAt(l.root, p, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return keptXattrs("/proc/self/fd/" + itoa(fd))
}
