//go:build unix

package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// diskRoot is the directory of a build context. Everything below it is opened by descriptor, and no link is followed.
type diskRoot struct {
	// reopen opens the directory again. It must be the same one: its device and inode are those of id.
	reopen func() (*os.File, error)
	id     FileID
	pool   *RootPool // nil if the directory stays open

	// Guarded by the mutex of pool.
	file  *os.File // nil while closed
	users int
}

// newDiskRoot opens a directory with open, which it may call again later.
func newDiskRoot(open func() (*os.File, error)) (*diskRoot, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	id, err := idOf(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &diskRoot{reopen: open, id: id, file: f}, nil
}

func idOf(f *os.File) (FileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return FileID{}, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return FileID{uint64(st.Dev), uint64(st.Ino)}, nil
}

// openDiskRoot opens a directory; links in its path are followed.
func openDiskRoot(dir string) (*diskRoot, error) {
	return newDiskRoot(func() (*os.File, error) {
		return os.OpenFile(dir, openPath|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
}

// openExactRoot opens a directory by its absolute path. If that path does not exist, or leads through a link, the
// root is empty.
func openExactRoot(dir string) (*diskRoot, error) {
	return newDiskRoot(func() (*os.File, error) { return openExact(dir) })
}

func openExact(dir string) (*os.File, error) {
	slash, err := os.OpenFile("/", openPath|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer slash.Close()
	fd, err := OpenBeneath(slash, dir, openPath|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		fd, err = unix.Open(os.DevNull, openPath|unix.O_CLOEXEC, 0) // nothing exists below it
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// mtime returns the modification time of the directory itself.
func (r *diskRoot) mtime() (time.Time, error) {
	var st unix.Stat_t
	err := r.use(func(root *os.File) error { return unix.Fstat(int(root.Fd()), &st) })
	if err != nil {
		return time.Time{}, &fs.PathError{Op: "stat", Path: "/", Err: err}
	}
	return time.Unix(st.Mtim.Unix()), nil
}

// open opens a regular file for reading.
func (r *diskRoot) open(p string) (f *os.File, err error) {
	err = r.use(func(root *os.File) error {
		f, err = OpenFileBeneath(root, p)
		return err
	})
	return f, err
}

// dir opens a directory. The caller closes it.
func (r *diskRoot) dir(p string) (*diskDir, error) {
	fd := -1
	err := r.use(func(root *os.File) (err error) {
		fd, err = OpenBeneath(root, p, unix.O_RDONLY|unix.O_DIRECTORY)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &diskDir{path: p, file: os.NewFile(uintptr(fd), p), fd: fd}, nil
}

// diskDir is an open directory of a build context.
type diskDir struct {
	path string
	file *os.File
	fd   int // of file
}

func (d *diskDir) close() error { return d.file.Close() }

// names lists the directory in no particular order.
func (d *diskDir) names() ([]string, error) { return d.file.Readdirnames(-1) }

// stat returns the file at a name in the directory. The error wraps fs.ErrNotExist if it has vanished.
func (d *diskDir) stat(name string) (f foundFile, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return f, &fs.PathError{Op: "stat", Path: childOf(d.path, name), Err: err}
	}
	// The types of these fields differ from system to system.
	f.localFile = localFile{
		mode: uint32(st.Mode), nlink: uint32(st.Nlink), size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(),
		inode: uint64(st.Ino), dev: uint64(st.Dev), rdev: uint64(st.Rdev),
	}
	if f.mode&ModeType != ModeLink {
		return f, nil
	}
	f.link, err = ReadlinkAt(d.fd, name)
	if errors.Is(err, unix.EINVAL) {
		return f, fmt.Errorf("%s: %w", childOf(d.path, name), ErrChanged) // no longer a link
	}
	if err != nil {
		return f, &fs.PathError{Op: "readlink", Path: childOf(d.path, name), Err: err}
	}
	return f, nil
}

// OpenFileBeneath opens the regular file at a path below root for reading, as OpenBeneath does.
func OpenFileBeneath(root *os.File, p string) (*os.File, error) {
	// O_NONBLOCK: opening a named pipe must not wait for a writer; it is refused below.
	fd, err := OpenBeneath(root, p, unix.O_RDONLY|unix.O_NONBLOCK)
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

// ReadlinkAt returns the target of the link name in the directory fd. On Linux an empty name is the link fd itself.
func ReadlinkAt(fd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
