package layerfs

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// dirLayer reads a layer that is a directory in overlayfs's encoding. It opens every path below the descriptor root and
// follows no links.
type dirLayer struct{ root *os.File }

func openDirLayer(dir string) (*dirLayer, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &dirLayer{f}, nil
}

func (l *dirLayer) node(p string) (tree.Node, bool, error) {
	fd, err := tree.OpenBeneath(l.root, p, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) {
		return tree.Node{}, false, nil
	}
	if err != nil {
		return tree.Node{}, false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return tree.Node{}, false, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	n, err := nodeOf(fd, "", p, &st)
	return n, err == nil, err
}

// nodeOf returns the node of a file: of fd itself if name is empty, of name in the directory fd otherwise.
func nodeOf(fd int, name, p string, st *unix.Stat_t) (tree.Node, error) {
	n := tree.Node{Entry: entryOf(p, st)}
	switch {
	case n.Entry.Type() == unix.S_IFCHR && st.Rdev == 0:
		return tree.Node{Entry: tree.Entry{Path: p}, Whiteout: true}, nil
	case n.Entry.IsLink():
		target, err := tree.ReadlinkAt(fd, name)
		if err != nil {
			return n, &fs.PathError{Op: "readlink", Path: p, Err: err}
		}
		n.Entry.Link = target
	case n.Entry.IsDir():
		n.Opaque = IsOpaque(procPath(fd, name))
	}
	return n, nil
}

func entryOf(p string, st *unix.Stat_t) tree.Entry {
	e := tree.Entry{
		Path: p, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: time.Unix(st.Mtim.Unix()),
		Rdev: st.Rdev, Inode: st.Ino, Nlink: uint32(st.Nlink),
	}
	if e.IsRegular() {
		e.Size = st.Size
	}
	return e
}

// Touches reports whether a layer's directory has an entry with one of the names in its root, or hides the root of the
// layers below. It reports true for a directory that cannot be read. The names are single path components. The engine
// calls it to find out whether a user that was resolved without the layer is still valid.
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
	return IsOpaque(procPath(root, ""))
}

// IsOpaque reports whether the directory at a path has overlayfs's opaque attribute.
func IsOpaque(dir string) bool {
	var buf [8]byte
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		if n, err := unix.Lgetxattr(dir, attr, buf[:]); err == nil && n == 1 && buf[0] == 'y' {
			return true
		}
	}
	return false
}

// procPath returns a path of an open file, or of a name in an open directory, for system calls that take no descriptor.
// If name is set, the caller must not follow it.
func procPath(fd int, name string) string {
	self := "/proc/self/fd/" + strconv.Itoa(fd)
	if name == "" {
		return self + "/."
	}
	return self + "/" + name
}

func (l *dirLayer) list(p string) ([]tree.Node, error) {
	fd, err := tree.OpenBeneath(l.root, p, unix.O_RDONLY|unix.O_DIRECTORY)
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
	all := make([]tree.Node, 0, len(names))
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

// xattrs reads the extended attributes of a path that a copy keeps.
func (l *dirLayer) xattrs(p string) (map[string][]byte, error) {
	fd, err := tree.OpenBeneath(l.root, p, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return keptXattrs("/proc/self/fd/" + strconv.Itoa(fd))
}
