package tree

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// SetXattrError explains an error of setxattr(2) for an attribute of size bytes on the file system that holds fd.
//
// A file system reports an attribute that it cannot hold as a full disk: ext4 keeps all attributes of a file in one
// block. Taken for a full disk, one file of a hostile layer would be an error of this machine. So unless the disk lacks
// even the space for an attribute of the largest size, ENOSPC is returned as an error of the file.
func SetXattrError(fd int, name string, size int, err error) error {
	full := errors.Is(err, unix.ENOSPC)
	if !full && !errors.Is(err, unix.E2BIG) && !errors.Is(err, unix.ERANGE) || full && lacksSpace(fd) {
		return fmt.Errorf("setxattr %.200s: %w", name, err)
	}
	return fmt.Errorf("the file system of the cache cannot hold its attribute %.200s of %d bytes; "+
		"remove the attribute, or set BAKE_CACHE_DIR to a directory on another file system, such as xfs", name, size)
}

// lacksSpace reports whether a file system may lack the space for an attribute, or if that is not known.
func lacksSpace(fd int) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return true
	}
	return int64(st.Bavail)*st.Frsize < 16*MaxXattrs || st.Files > 0 && st.Ffree < 16
}
