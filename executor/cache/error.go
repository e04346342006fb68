package cache

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Error is a fault of the cache's own file system: what was being done, where, why, and what the user can do.
type Error struct {
	Op   string
	Path string
	Err  error
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Error is the whole message for a person.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err)
	switch {
	case errors.Is(e.Err, unix.ENOSPC), errors.Is(e.Err, unix.EDQUOT):
		return text + freeSpace(e.Path) + "; bake cache prune --keep-size frees what was not used for longest, or set BAKE_CACHE_DIR to another disk"
	case errors.Is(e.Err, unix.EROFS), errors.Is(e.Err, unix.EACCES), errors.Is(e.Err, unix.EPERM):
		return text + "; set BAKE_CACHE_DIR to a directory that you may write"
	}
	return text
}

// freeSpace says how much room the file system of path, or of the nearest folder above it, has left.
func freeSpace(path string) string {
	for ; path != "/" && path != "."; path = filepath.Dir(path) {
		var st unix.Statfs_t
		if unix.Statfs(path, &st) == nil {
			return fmt.Sprintf(" (%d MB free of %d MB)", int64(st.Bavail)*st.Bsize/1e6, int64(st.Blocks)*st.Bsize/1e6)
		}
	}
	return ""
}

// wrap makes err an *Error unless it is nil or one already.
func wrap(op, path string, err error) error {
	var already *Error
	if err == nil || errors.As(err, &already) {
		return err
	}
	return &Error{Op: op, Path: path, Err: err}
}

// refuseNetwork refuses file systems whose locks do not hold between machines.
func refuseNetwork(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	switch int64(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC:
		return errors.New("a network file system cannot hold a cache: set BAKE_CACHE_DIR to a local disk")
	}
	return nil
}
