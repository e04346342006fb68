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
	// Freeable is what a prune would free where the disk is full, in bytes; 0 when that was not measured.
	Freeable int64
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Error is the whole message for a person.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err)
	switch {
	case DiskFull(e.Err):
		frees := "what no tagged image needs"
		if e.Freeable > 0 {
			frees = fmt.Sprintf("%d MB", e.Freeable/1e6)
		}
		return text + freeSpace(e.Path) + "; bake cache prune --all frees " + frees + ", or set BAKE_CACHE_DIR to another disk"
	case errors.Is(e.Err, unix.EROFS), errors.Is(e.Err, unix.EACCES), errors.Is(e.Err, unix.EPERM):
		if ownedByOther(e.Path) {
			text += "; it belongs to another user, as after a build with sudo: chown the cache back"
			return text + ", or set BAKE_CACHE_DIR to a directory that you may write"
		}
		return text + "; set BAKE_CACHE_DIR to a directory that you may write"
	}
	return text
}

// foreign says whether path, or the nearest folder above it that can be looked at, is another user's.
func ownedByOther(path string) bool {
	for ; path != "/" && path != "."; path = filepath.Dir(path) {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			return int(st.Uid) != unix.Geteuid()
		}
	}
	return false
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

// DiskFull says whether an error is that a disk is full.
func DiskFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// MeasureFreeable adds to an error of a full disk what a prune would free.
func (s *Store) MeasureFreeable(err error) {
	var e *Error
	if DiskFull(err) && errors.As(err, &e) && e.Freeable == 0 {
		e.Freeable, _ = s.Freeable() // a disk that is so full that it cannot be told is told without
	}
}

// DiskAlmostFull says that the disk has less than a hundredth of its room, and how much, for people.
func (s *Store) DiskAlmostFull() (string, bool) {
	free, size, err := freeBytes(s.dir)
	return freeSpace(s.dir), err == nil && free < size/100
}

// wrap makes err an *Error unless it is nil or one already.
func wrap(op, path string, err error) error {
	var already *Error
	if err == nil || errors.As(err, &already) {
		return err
	}
	return &Error{Op: op, Path: path, Err: err}
}

// checkFileSystem refuses file systems whose locks do not hold between machines.
func checkFileSystem(dir string) error {
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
