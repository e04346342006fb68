package layers

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/tree"
)

// OwnerError reports a file of a layer whose owner is not mapped in this user namespace.
type OwnerError struct {
	UID, GID uint32
}

// Error implements error.
func (e *OwnerError) Error() string {
	return idmap.Unmapped(fmt.Sprintf("owner %d:%d", e.UID, e.GID))
}

// attributes sets owner, xattrs, mode and times of the link, device or FIFO name in the directory fd. The order
// matters: chown clears setuid bits and file capabilities, so it comes first.
func (d *disk) attributes(fd int, name string, ino *inode) error {
	if err := d.chown(ino, func() error {
		return unix.Fchownat(fd, name, int(ino.uid), int(ino.gid), unix.AT_SYMLINK_NOFOLLOW)
	}); err != nil {
		return err
	}
	if len(ino.xattrs) > 0 {
		self := fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
		set := func(k string, v []byte) error { return unix.Lsetxattr(self, k, v, 0) }
		if err := d.xattrs(fd, ino, set); err != nil {
			return err
		}
	}
	if ino.kind() != unix.S_IFLNK {
		if err := unix.Fchmodat(fd, name, ino.mode&0o7777, 0); err != nil { // name is not a link
			return os.NewSyscallError("chmod", err)
		}
	}
	ts := timespec(ino.mtime)
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, name, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// attributesFd is like attributes, for the open directory fd.
func (d *disk) attributesFd(fd int, ino *inode) error {
	if err := d.chown(ino, func() error { return unix.Fchown(fd, int(ino.uid), int(ino.gid)) }); err != nil {
		return err
	}
	if err := d.xattrs(fd, ino, func(k string, v []byte) error { return unix.Fsetxattr(fd, k, v, 0) }); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, ino.mode&0o7777); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	ts := timespec(ino.mtime)
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, ".", ts[:], 0))
}

func (d *disk) chown(ino *inode, set func() error) error {
	if ino.uid == d.uid && ino.gid == d.gid && !d.setgid {
		return nil
	}
	err := set()
	if errors.Is(err, unix.EINVAL) && d.user {
		return &OwnerError{ino.uid, ino.gid}
	}
	return os.NewSyscallError("chown", err)
}

// xattrs sets the extended attributes of ino. Like containerd, it skips those that the file system does not support
// and those that this user must not set in a user namespace. An ACL is skipped if its bytes or ids are not valid here.
// fd is any file of the same file system.
func (d *disk) xattrs(fd int, ino *inode, set func(string, []byte) error) error {
	for k, v := range ino.xattrs {
		err := set(k, v)
		switch {
		case err == nil, errors.Is(err, unix.ENOTSUP):
		case errors.Is(err, unix.EINVAL) && tree.IsACL(k):
		case errors.Is(err, unix.EPERM) && d.user:
		case errors.Is(err, unix.EPERM) && strings.HasPrefix(k, "user.") &&
			ino.kind() != unix.S_IFREG && ino.kind() != unix.S_IFDIR:
		default:
			return tree.SetXattrError(fd, k, len(v), err)
		}
	}
	return nil
}
