package fileop

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/tree"
)

// mkdirAll creates a directory and the missing ones above it, all with the same attributes. The path has no links.
func (s *stage) mkdirAll(p string, attr attrs) error {
	e, err := s.Lookup(p)
	if err == nil {
		if !e.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: p, Err: unix.ENOTDIR}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.mkdirAll(path.Dir(p), attr); err != nil {
		return err
	}
	return s.mkdir(p, attr)
}

// mkdir creates a directory at a path that the tree does not have.
func (s *stage) mkdir(p string, attr attrs) error {
	if err := s.copyUpDir(path.Dir(p)); err != nil {
		return err
	}
	if err := s.dropWhiteout(p); err != nil {
		return err
	}
	hides, err := s.hidesLower(p)
	if err != nil {
		return err
	}
	mode := uint32(0o700)
	if attr.inherit {
		mode = attr.mode
	}
	fd, err := s.makeDirAt(p, mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if hides {
		if err := s.markOpaque(fd); err != nil {
			return &fs.PathError{Op: "mark opaque", Path: p, Err: err}
		}
	}
	m := &upperEntry{entry: newEntry(p, unix.S_IFDIR, attr), fresh: true}
	s.upper[p] = m
	if attr.mtime != nil {
		s.times[p] = *attr.mtime
	}
	if attr.inherit {
		return setInherited(fd, &m.entry, attr)
	}
	return setFd(fd, p, attr)
}

// dropWhiteout removes the whiteout at a path, if any.
func (s *stage) dropWhiteout(p string) error {
	m, ok := s.upper[p]
	if !ok || !m.whiteout {
		return nil
	}
	dir, name, err := s.openParent(p)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Unlinkat(dir, name, 0); err != nil {
		return &fs.PathError{Op: "unlink", Path: p, Err: err}
	}
	delete(s.upper, p)
	return nil
}

// hidesLower reports whether the parent has a directory at a path that a new one must hide. Unless it is opaque,
// overlayfs would merge the two.
func (s *stage) hidesLower(p string) (bool, error) {
	if s.hidden(p) {
		return false, nil
	}
	e, err := s.parent.Lookup(p)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return e.IsDir(), err
}

func (s *stage) markOpaque(fd int) error {
	name := "trusted.overlay.opaque"
	if s.userXattr {
		name = "user.overlay.opaque"
	}
	return unix.Fsetxattr(fd, name, []byte("y"), 0)
}

// clear removes the file at a path from upper, so that a file that is not a directory can replace it. A directory is an
// error.
func (s *stage) clear(p string) error {
	e, err := s.Lookup(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.IsDir() {
		return fmt.Errorf("%s is a directory: a file cannot replace it", p)
	}
	return s.removeUpper(p)
}

// removeUpper removes a path and everything below it from upper. It does not hide the path of the parent.
func (s *stage) removeUpper(p string) error {
	if m, ok := s.upper[p]; !ok || m.whiteout {
		return nil
	}
	dir, name, err := s.openParent(p)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if s.upper[p].entry.IsDir() {
		for q := range s.upper {
			if strings.HasPrefix(q, p+"/") {
				delete(s.upper, q)
				delete(s.times, q)
			}
		}
	}
	delete(s.upper, p)
	delete(s.times, p)
	if err := removeAllAt(dir, name); err != nil {
		return &fs.PathError{Op: "remove", Path: p, Err: err}
	}
	return nil
}

// removeAllAt removes name and everything below it from the open directory dir.
func removeAllAt(dir int, name string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// remove removes a path from the tree: from upper, and with a whiteout if the parent has it.
func (s *stage) remove(p string) error {
	if err := s.removeUpper(p); err != nil {
		return err
	}
	if s.hidden(p) {
		return nil
	}
	if _, err := s.parent.Lookup(p); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := s.copyUpDir(path.Dir(p)); err != nil {
		return err
	}
	dir, name, err := s.openParent(p)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Mknodat(dir, name, unix.S_IFCHR, 0); err != nil {
		return &fs.PathError{Op: "create whiteout", Path: p, Err: err}
	}
	s.changed = true
	s.upper[p] = &upperEntry{whiteout: true}
	return nil
}

// location is a path of upper as an open directory and a free name in it. The owner must close dir.
type location struct {
	dir  int
	name string
	path string
}

// prepare returns the location for a new file at p and enters it in the map upper. It removes a whiteout there.
func (s *stage) prepare(p string, kind uint32, attr attrs) (location, error) {
	if err := s.copyUpDir(path.Dir(p)); err != nil {
		return location{}, err
	}
	if err := s.dropWhiteout(p); err != nil {
		return location{}, err
	}
	dir, name, err := s.openParent(p)
	if err != nil {
		return location{}, err
	}
	s.changed = true
	s.upper[p] = &upperEntry{entry: newEntry(p, kind, attr)}
	return location{dir, name, p}, nil
}

func newEntry(p string, kind uint32, attr attrs) tree.Entry {
	e := tree.Entry{Path: p, Mode: kind | attr.mode}
	if attr.owner != nil {
		e.UID, e.GID = attr.owner.uid, attr.owner.gid
	}
	return e
}

// file creates a regular file with the content of r.
func (s *stage) file(p string, attr attrs, r io.Reader) error {
	f, err := s.create(p, attr)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	return setFd(int(f.Fd()), p, attr)
}

// create creates an empty regular file with mode 0600. The caller sets its attributes with setFd after writing.
func (s *stage) create(p string, attr attrs) (*os.File, error) {
	at, err := s.prepare(p, unix.S_IFREG, attr)
	if err != nil {
		return nil, err
	}
	defer unix.Close(at.dir)
	fd, err := unix.Openat(at.dir, at.name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: at.path, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// setDirAttrs changes the attributes of an existing directory.
func (s *stage) setDirAttrs(p string, attr attrs) error {
	if err := s.copyUpDir(p); err != nil {
		return err
	}
	fd, err := s.openDir(p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	m := s.upper[p]
	m.entry.Mode, m.entry.UID, m.entry.GID = unix.S_IFDIR|attr.mode, attr.owner.uid, attr.owner.gid
	s.changed = true
	if attr.mtime != nil {
		s.times[p] = *attr.mtime
	}
	return setFd(fd, p, attr)
}

// setFileAttrs changes the attributes of a regular file of upper that has the given names.
func (s *stage) setFileAttrs(attr attrs, names ...string) error {
	dir, name, err := s.openParent(names[0])
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: names[0], Err: err}
	}
	defer unix.Close(fd)
	for _, p := range names {
		if m := s.upper[p]; m != nil {
			m.entry.Mode, m.entry.UID, m.entry.GID = unix.S_IFREG|attr.mode, attr.owner.uid, attr.owner.gid
		}
	}
	return setFd(fd, names[0], attr)
}

// chmod changes the mode of an existing directory.
func (s *stage) chmod(p string, mode uint32) error {
	e, err := s.Lookup(p)
	if err != nil {
		return err
	}
	return s.setDirAttrs(p, attrs{mode: mode, owner: &owner{e.UID, e.GID}})
}

// symlink creates a symbolic link.
func (s *stage) symlink(p, target string, attr attrs) error {
	attr.mode = 0o777
	at, err := s.prepare(p, unix.S_IFLNK, attr)
	if err != nil {
		return err
	}
	defer unix.Close(at.dir)
	s.upper[p].entry.Link = target
	if err := unix.Symlinkat(target, at.dir, at.name); err != nil {
		return &fs.PathError{Op: "symlink", Path: p, Err: err}
	}
	return at.setAttrs(attr)
}

// node creates a device or a FIFO.
func (s *stage) node(p string, kind uint32, device uint64, attr attrs) error {
	at, err := s.prepare(p, kind, attr)
	if err != nil {
		return err
	}
	defer unix.Close(at.dir)
	if err := unix.Mknodat(at.dir, at.name, kind|0o600, int(device)); err != nil {
		return &fs.PathError{Op: "mknod", Path: p, Err: err}
	}
	if err := at.setAttrs(attr); err != nil {
		return err
	}
	// The mode comes after the owner: chown clears setuid and setgid bits.
	if err := unix.Fchmodat(at.dir, at.name, attr.mode&0o7777, 0); err != nil {
		return &fs.PathError{Op: "chmod", Path: p, Err: err}
	}
	return nil
}

// link makes p a hard link to the file at first, which upper must hold.
func (s *stage) link(p, first string) error {
	at, err := s.prepare(p, 0, attrs{})
	if err != nil {
		return err
	}
	defer unix.Close(at.dir)
	dir, name, err := s.openParent(first)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	s.upper[p].entry = s.upper[first].entry
	s.upper[p].entry.Path = p
	if err := unix.Linkat(dir, name, at.dir, at.name, 0); err != nil {
		return &fs.PathError{Op: "link", Path: p, Err: err}
	}
	return nil
}

// setAttrs sets owner and time of a symbolic link, device or FIFO.
func (at location) setAttrs(attr attrs) error {
	if err := chown(attr.owner, func(uid, gid int) error {
		return unix.Fchownat(at.dir, at.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}); err != nil {
		return &fs.PathError{Op: "chown", Path: at.path, Err: err}
	}
	if attr.mtime == nil {
		return nil
	}
	return os.NewSyscallError("utimensat", setTime(at.dir, at.name, *attr.mtime))
}

func setTime(dir int, name string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// setFd sets all attributes of an open file or directory. The owner comes first: chown clears mode bits and
// capabilities.
func setFd(fd int, p string, attr attrs) error {
	if err := chown(attr.owner, func(uid, gid int) error { return unix.Fchown(fd, uid, gid) }); err != nil {
		return &fs.PathError{Op: "chown", Path: p, Err: err}
	}
	for name, value := range attr.xattrs {
		err := unix.Fsetxattr(fd, name, value, 0)
		// Skip what the file system does not support or a user namespace does not permit, as layers.Unpack does.
		// Also an ACL with an id that is not mapped.
		invalid := errors.Is(err, unix.EINVAL) && tree.IsACL(name)
		if err != nil && !invalid && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return &fs.PathError{Op: "copy", Path: p, Err: tree.SetXattrError(fd, name, len(value), err)}
		}
	}
	if err := unix.Fchmod(fd, attr.mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: p, Err: err}
	}
	if attr.mtime == nil {
		return nil
	}
	ts := unix.NsecToTimespec(attr.mtime.UnixNano())
	return os.NewSyscallError("futimens", futimens(fd, [2]unix.Timespec{ts, ts}))
}

// futimens sets the times of an open file: utimensat with a nil path, which package unix cannot express.
func futimens(fd int, ts [2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// chown changes an owner, unless o is nil. The error for an id that the user namespace does not map says what is
// needed.
func chown(o *owner, set func(uid, gid int) error) error {
	if o == nil {
		return nil
	}
	return idmap.Explain(set(int(o.uid), int(o.gid)), o.uid, o.gid)
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
