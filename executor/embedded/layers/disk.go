package layers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// maxOpenDirs is the number of directories that stay open between entries.
const maxOpenDirs = 64

// disk is the target that writes to a directory. It opens each directory relative to its parent's descriptor, without
// following links, and passes single names to system calls only.
type disk struct {
	root    *dirRef
	below   Below
	user    bool // in a user namespace: user.overlay.* attributes, no device nodes
	uid     uint32
	gid     uint32
	setgid  bool // the directory is setgid, so new files do not get our group
	open    []*node
	dirs    map[*node]*dirRef
	writers *writers
}

// dirRef is an open directory with a reference count, shared with the writers that still create files in it.
type dirRef struct {
	fd   int
	refs atomic.Int32
}

func newDirRef(fd int) *dirRef {
	d := &dirRef{fd: fd}
	d.refs.Store(1)
	return d
}

func (d *dirRef) hold() *dirRef { d.refs.Add(1); return d }

func (d *dirRef) release() {
	if d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

const openDirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func newDisk(ctx context.Context, dir string, below Below, user bool) (*disk, error) {
	fd, err := unix.Open(dir, openDirFlags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return &disk{
		root: newDirRef(fd), below: below, user: user, dirs: map[*node]*dirRef{}, writers: newWriters(ctx),
		uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), setgid: st.Mode&unix.S_ISGID != 0,
	}, nil
}

// close waits for all writers and closes every descriptor.
func (d *disk) close() error {
	err := d.writers.wait()
	for _, n := range d.open {
		if r := d.dirs[n]; r != nil {
			r.release()
		}
	}
	d.dirs, d.open = nil, nil
	d.root.release()
	return err
}

// dir opens the directory n, which this layer has created. The result stays valid until the next call of dir or drop;
// call hold to keep it longer.
func (d *disk) dir(n *node) (*dirRef, error) {
	if n.parent == nil {
		return d.root, nil
	}
	if r := d.dirs[n]; r != nil {
		return r, nil
	}
	up, err := d.dir(n.parent)
	if err != nil {
		return nil, err
	}
	up.hold() // drop may close it otherwise
	defer up.release()
	fd, err := unix.Openat(up.fd, n.name, openDirFlags, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	if len(d.open) >= maxOpenDirs {
		d.drop(d.open[0])
	}
	r := newDirRef(fd)
	d.dirs[n] = r
	d.open = append(d.open, n)
	return r, nil
}

// drop closes n if it is kept open.
func (d *disk) drop(n *node) {
	r := d.dirs[n]
	if r == nil {
		return
	}
	delete(d.dirs, n)
	for i, o := range d.open {
		if o == n {
			d.open = append(d.open[:i], d.open[i+1:]...)
			break
		}
	}
	r.release()
}

func (d *disk) mkdir(n *node) error {
	up, err := d.dir(n.parent)
	if err != nil {
		return err
	}
	return os.NewSyscallError("mkdir", unix.Mkdirat(up.fd, n.name, 0o700)) // attributes follow in finish
}

func (d *disk) mkfile(n *node, r io.Reader) error {
	up, err := d.dir(n.parent)
	if err != nil {
		return err
	}
	return d.writers.file(&fileJob{disk: d, dir: up.hold(), node: n, ino: n.ino, done: make(chan struct{})}, r)
}

func (d *disk) mklink(n, old *node) error {
	if p := old.ino.pending; p != nil {
		<-p.done
		old.ino.pending = nil
	}
	from, err := d.dir(old.parent)
	if err != nil {
		return err
	}
	from.hold()
	defer from.release()
	to, err := d.dir(n.parent)
	if err != nil {
		return err
	}
	if err := unix.Linkat(from.fd, old.name, to.fd, n.name, 0); err != nil {
		if werr := d.writers.failed(); werr != nil {
			return werr // the link fails because writing the target failed
		}
		return os.NewSyscallError("link", err)
	}
	return nil
}

func (d *disk) mkspecial(n *node) error {
	up, err := d.dir(n.parent)
	if err != nil {
		return err
	}
	if n.whiteout {
		err := unix.Mknodat(up.fd, n.name, unix.S_IFCHR, 0)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			return errors.New("the file system of the cache cannot hold removed files; " +
				"set BAKE_CACHE_DIR to a directory on ext4, xfs, btrfs or tmpfs, such as a volume")
		}
		return os.NewSyscallError("mknod", err)
	}
	if n.ino.kind() == unix.S_IFLNK {
		if err := unix.Symlinkat(n.ino.link, up.fd, n.name); err != nil {
			return os.NewSyscallError("symlink", err)
		}
	} else if err := unix.Mknodat(up.fd, n.name, n.ino.kind()|0o600, int(n.ino.rdev)); err != nil {
		return os.NewSyscallError("mknod", err)
	}
	return d.attributes(up.fd, n.name, n.ino)
}

// supports returns false for device nodes in a user namespace, where they cannot be created. Containerd and rootless
// BuildKit skip them too.
func (d *disk) supports(i *inode) bool {
	return !d.user || (i.kind() != unix.S_IFCHR && i.kind() != unix.S_IFBLK)
}

// remove deletes n and everything below it from disk. It first waits for all writers; removals are rare.
func (d *disk) remove(n *node) error {
	d.writers.idle()
	up, err := d.dir(n.parent)
	if err != nil {
		return err
	}
	up.hold()
	defer up.release()
	return d.removeAt(up.fd, n)
}

func (d *disk) removeAt(fd int, n *node) error {
	if !n.isDir() {
		return os.NewSyscallError("unlink", unix.Unlinkat(fd, n.name, 0))
	}
	d.drop(n)
	own, err := unix.Openat(fd, n.name, openDirFlags, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(own)
	for _, c := range n.children {
		if err := d.removeAt(own, c); err != nil {
			return err
		}
	}
	return os.NewSyscallError("rmdir", unix.Unlinkat(fd, n.name, unix.AT_REMOVEDIR))
}

// copyUp creates n as a copy of the file that the layers below have at its path.
func (d *disk) copyUp(n *node) error {
	if d.below == nil {
		return errors.New("no such file in this layer")
	}
	p := n.path()
	e, err := d.below.Lookup(p)
	if err != nil {
		return err
	}
	number := n.ino.number
	*n.ino = inode{
		mode: e.Mode, uid: e.UID, gid: e.GID, size: e.Size, mtime: e.Mtime, link: e.Link, rdev: e.Rdev, nlink: 1,
		number: number,
	}
	if n.ino.isDir() {
		return errors.New("target is a directory")
	}
	if n.ino.xattrs, err = d.below.Xattrs(p); err != nil {
		return err
	}
	if n.ino.kind() != unix.S_IFREG {
		return d.mkspecial(n)
	}
	f, err := d.below.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.mkfile(n, f)
}

// finish sets the attributes of all directories, children first: creating a file would change the time of its parent.
func (d *disk) finish(root *node) error {
	if err := d.writers.wait(); err != nil {
		return err
	}
	return d.finishDir(root, d.root.fd)
}

func (d *disk) finishDir(n *node, fd int) error {
	for _, c := range n.children {
		if !c.isDir() {
			continue
		}
		own, err := unix.Openat(fd, c.name, openDirFlags, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: c.path(), Err: err}
		}
		err = d.finishDir(c, own)
		unix.Close(own)
		if err != nil {
			return err
		}
	}
	if n.implied {
		if err := d.inherit(n); err != nil {
			return fmt.Errorf("%s: %w", n.path(), err)
		}
	}
	if n.opaque && n.parent != nil {
		if err := unix.Fsetxattr(fd, d.opaqueName(), []byte("y"), 0); err != nil {
			return &os.PathError{Op: "setxattr " + d.opaqueName(), Path: n.path(), Err: err}
		}
	}
	if err := d.attributesFd(fd, n.ino); err != nil {
		return fmt.Errorf("%s: %w", n.path(), err)
	}
	return nil
}

func (d *disk) opaqueName() string {
	if d.user {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

// inherit gives a directory without an entry of its own the attributes that it has in the layers below.
func (d *disk) inherit(n *node) error {
	if d.below == nil || n.hidden() {
		return nil
	}
	p := n.path()
	e, err := d.below.Lookup(p)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil // the lower path is not a directory
	}
	x, err := d.below.Xattrs(p)
	if err != nil {
		return err
	}
	n.ino.mode, n.ino.uid, n.ino.gid, n.ino.mtime, n.ino.xattrs = e.Mode, e.UID, e.GID, e.Mtime, x
	return nil
}

var _ target = (*disk)(nil)

func timespec(t time.Time) [2]unix.Timespec {
	ts := unix.NsecToTimespec(t.UnixNano())
	return [2]unix.Timespec{ts, ts}
}
