package fileop

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// The attributes that hold POSIX ACLs. A new file or directory inherits both from the default ACL of its directory.
const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// setInherited sets the owner and mode of a directory that was just created with mode attr.mode, keeps what it
// inherited from its parent, and records the result in e.
//
// BuildKit calls mkdir and chown in a mount of the image. There the kernel gives the directory the group and the setgid
// bit of a setgid parent, and the ACLs of a parent with a default ACL. Upper has the parent with all its attributes, so
// the kernel does the same here. Without a default ACL the mode is set again, since the umask may have masked it.
func setInherited(fd int, e *tree.Entry, attr attrs) error {
	if err := chown(attr.owner, func(uid, gid int) error { return unix.Fchown(fd, uid, gid) }); err != nil {
		return &fs.PathError{Op: "chown", Path: e.Path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: e.Path, Err: err}
	}
	if _, err := unix.Fgetxattr(fd, defaultACL, nil); st.Mode&0o777 != attr.mode && (err != nil || attr.setMode) {
		setgid := st.Mode & unix.S_ISGID
		if attr.setMode {
			setgid = 0
		}
		st.Mode = unix.S_IFDIR | setgid | attr.mode
		if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
			return &fs.PathError{Op: "chmod", Path: e.Path, Err: err}
		}
	}
	e.Mode, e.UID, e.GID = st.Mode, st.Uid, st.Gid
	return nil
}

// dropACL removes the ACLs that a directory inherited in upper, except those that it is about to get.
func dropACL(fd int, keep map[string][]byte) error {
	for _, name := range []string{accessACL, defaultACL} {
		if _, ok := keep[name]; ok {
			continue
		}
		err := unix.Fremovexattr(fd, name)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}
