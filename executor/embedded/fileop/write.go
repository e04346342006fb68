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

// mkdirAll makes a directory and all that are missing above it, each looking the same. The path has no links.
func (s *stage) mkdirAll(p string, look attrs) error {
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
	if err := s.mkdirAll(path.Dir(p), look); err != nil {
		return err
	}
	return s.mkdir(p, look)
}

// mkdir makes a directory where nothing is.
func (s *stage) mkdir(p string, look attrs) error {
	if err := s.need(path.Dir(p)); err != nil {
		return err
	}
	if err := s.dropWhiteout(p); err != nil {
		return err
	}
	hides, err := s.covers(p)
	if err != nil {
		return err
	}
	fd, err := s.makeDirAt(p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if hides {
		if err := s.markOpaque(fd); err != nil {
			return &fs.PathError{Op: "mark opaque", Path: p, Err: err}
		}
	}
	s.made[p] = &made{entry: newEntry(p, unix.S_IFDIR, look), fresh: true}
	if look.mtime != nil {
		s.times[p] = *look.mtime
	}
	return setFd(fd, p, look)
}

// dropWhiteout removes the whiteout at a path, if there is one.
func (s *stage) dropWhiteout(p string) error {
	m, ok := s.made[p]
	if !ok || !m.gone {
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
	delete(s.made, p)
	return nil
}

// covers says that a new directory at a path would show the content of one that the parent has there.
func (s *stage) covers(p string) (bool, error) {
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

// clear makes room for a file that is not a directory: what is there goes, unless it is a directory.
func (s *stage) clear(p string) error {
	e, err := s.Lookup(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.IsDir() {
		return fmt.Errorf("%s is a directory, a file cannot take its place", p)
	}
	return s.removeMade(p)
}

// removeMade removes a path from upper, with all below it. It says nothing of the parent.
func (s *stage) removeMade(p string) error {
	if m, ok := s.made[p]; !ok || m.gone {
		return nil
	}
	dir, name, err := s.openParent(p)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if s.made[p].entry.IsDir() {
		for q := range s.made {
			if strings.HasPrefix(q, p+"/") {
				delete(s.made, q)
				delete(s.times, q)
			}
		}
	}
	delete(s.made, p)
	delete(s.times, p)
	if err := removeAllAt(dir, name); err != nil {
		return &fs.PathError{Op: "remove", Path: p, Err: err}
	}
	return nil
}

// removeAllAt removes a tree by descriptor.
func removeAllAt(dir int, name string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// remove deletes a path of the tree: from upper, and with a whiteout if the parent has it.
func (s *stage) remove(p string) error {
	if err := s.removeMade(p); err != nil {
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
	if err := s.need(path.Dir(p)); err != nil {
		return err
	}
	dir, name, err := s.openParent(p)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Mknodat(dir, name, unix.S_IFCHR, 0); err != nil {
		return &fs.PathError{Op: "white out", Path: p, Err: err}
	}
	s.changed = true
	s.made[p] = &made{gone: true}
	return nil
}

// place is an open directory of upper and a free name in it.
type place struct {
	dir  int
	name string
	path string
}

// at prepares a path for a new file that is not a directory. Close the place's dir afterwards.
func (s *stage) at(p string, kind uint32, look attrs) (place, error) {
	if err := s.need(path.Dir(p)); err != nil {
		return place{}, err
	}
	if err := s.dropWhiteout(p); err != nil {
		return place{}, err
	}
	dir, name, err := s.openParent(p)
	if err != nil {
		return place{}, err
	}
	s.changed = true
	s.made[p] = &made{entry: newEntry(p, kind, look)}
	return place{dir, name, p}, nil
}

func newEntry(p string, kind uint32, look attrs) tree.Entry {
	return tree.Entry{Path: p, Mode: kind | look.mode, UID: look.owner.uid, GID: look.owner.gid}
}

// file makes a regular file with the content of r.
func (s *stage) file(p string, look attrs, r io.Reader) error {
	f, err := s.create(p, look)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	return setFd(int(f.Fd()), p, look)
}

// create makes an empty regular file that only its owner can open. setFd gives it its look.
func (s *stage) create(p string, look attrs) (*os.File, error) {
	at, err := s.at(p, unix.S_IFREG, look)
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

// relook changes how a directory looks that is there already.
func (s *stage) relook(p string, look attrs) error {
	if err := s.need(p); err != nil {
		return err
	}
	fd, err := s.openDir(p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	m := s.made[p]
	m.entry.Mode, m.entry.UID, m.entry.GID = unix.S_IFDIR|look.mode, look.owner.uid, look.owner.gid
	s.changed = true
	if look.mtime != nil {
		s.times[p] = *look.mtime
	}
	return setFd(fd, p, look)
}

// relookFile changes how a regular file of upper looks, under all its names.
func (s *stage) relookFile(look attrs, names ...string) error {
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
		if m := s.made[p]; m != nil {
			m.entry.Mode, m.entry.UID, m.entry.GID = unix.S_IFREG|look.mode, look.owner.uid, look.owner.gid
		}
	}
	return setFd(fd, names[0], look)
}

// chmod changes the mode of a directory that is there already.
func (s *stage) chmod(p string, mode uint32) error {
	e, err := s.Lookup(p)
	if err != nil {
		return err
	}
	return s.relook(p, attrs{mode: mode, owner: owner{e.UID, e.GID}})
}

// symlink makes a symbolic link.
func (s *stage) symlink(p, target string, look attrs) error {
	look.mode = 0o777
	at, err := s.at(p, unix.S_IFLNK, look)
	if err != nil {
		return err
	}
	defer unix.Close(at.dir)
	s.made[p].entry.Link = target
	if err := unix.Symlinkat(target, at.dir, at.name); err != nil {
		return &fs.PathError{Op: "symlink", Path: p, Err: err}
	}
	return at.setAt(look)
}

// node makes a device or a FIFO.
func (s *stage) node(p string, kind uint32, device uint64, look attrs) error {
	at, err := s.at(p, kind, look)
	if err != nil {
		return err
	}
	defer unix.Close(at.dir)
	if err := unix.Mknodat(at.dir, at.name, kind|0o600, int(device)); err != nil {
		return &fs.PathError{Op: "mknod", Path: p, Err: err}
	}
	if err := at.setAt(look); err != nil {
		return err
	}
	if err := unix.Fchmodat(at.dir, at.name, look.mode&0o7777, 0); err != nil { // after the owner, which clears bits of it
		return &fs.PathError{Op: "chmod", Path: p, Err: err}
	}
	return nil
}

// link makes p another name of the file at first, which upper has.
func (s *stage) link(p, first string) error {
	at, err := s.at(p, 0, attrs{})
	if err != nil {
		return err
	}
	defer unix.Close(at.dir)
	dir, name, err := s.openParent(first)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	s.made[p].entry = s.made[first].entry
	s.made[p].entry.Path = p
	if err := unix.Linkat(dir, name, at.dir, at.name, 0); err != nil {
		return &fs.PathError{Op: "link", Path: p, Err: err}
	}
	return nil
}

// setAt sets owner and time of a link, device or FIFO.
func (at place) setAt(look attrs) error {
	if err := chown(look.owner, func(uid, gid int) error {
		return unix.Fchownat(at.dir, at.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}); err != nil {
		return &fs.PathError{Op: "chown", Path: at.path, Err: err}
	}
	if look.mtime == nil {
		return nil
	}
	return os.NewSyscallError("utimensat", setTime(at.dir, at.name, *look.mtime))
}

func setTime(dir int, name string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// setFd sets all attributes of an open file or directory.
func setFd(fd int, p string, look attrs) error {
	if err := chown(look.owner, func(uid, gid int) error { return unix.Fchown(fd, uid, gid) }); err != nil {
		return &fs.PathError{Op: "chown", Path: p, Err: err}
	}
	for name, value := range look.xattrs {
		err := unix.Fsetxattr(fd, name, value, 0)
		// What the file system or a user's own namespace cannot hold is left out, as in an unpacked base.
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return &fs.PathError{Op: "set " + name + " of", Path: p, Err: err}
		}
	}
	if err := unix.Fchmod(fd, look.mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: p, Err: err}
	}
	if look.mtime == nil {
		return nil
	}
	ts := unix.NsecToTimespec(look.mtime.UnixNano())
	return os.NewSyscallError("futimens", futimens(fd, [2]unix.Timespec{ts, ts}))
}

// futimens sets the times of an open file. utimensat without a path means that, on every kernel.
func futimens(fd int, ts [2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// chown changes an owner. The error for an id that the user namespace does not map says what is needed.
func chown(o owner, set func(uid, gid int) error) error {
	err := set(int(o.uid), int(o.gid))
	if errors.Is(err, unix.EINVAL) {
		return errors.New(idmap.Unmapped(fmt.Sprintf("owner %d:%d", o.uid, o.gid)))
	}
	return err
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
