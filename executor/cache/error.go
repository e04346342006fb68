package cache

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is a failure of the cache's file system: what failed, where, why, and what the user can do.
type Error struct {
	Op   string
	Path string
	Err  error
	// Freeable is how many bytes a prune would free on a full disk; 0 if unknown. See MeasureFreeable.
	Freeable int64
	// Remedy says what to do about a full disk, if pruning the cache does not help.
	Remedy string
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Error returns the complete message for the user.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err)
	switch {
	case DiskFull(e.Err):
		if e.Remedy != "" {
			return fmt.Sprintf("%s (it holds %d MB); %s", text, spaceOf(e.Path).Size/1e6, e.Remedy)
		}
		frees := "everything that no tagged image needs"
		if e.Freeable > 0 {
			frees = fmt.Sprintf("%d MB", e.Freeable/1e6)
		}
		if errors.Is(e.Err, unix.ENOSPC) { // the free space says nothing about a quota
			d := spaceOf(e.Path)
			if d.lackedInodes() {
				text = strings.ReplaceAll(text, unix.ENOSPC.Error(), "no inodes left on device") + d.inodes()
			} else {
				text += d.bytes()
			}
		}
		text += "; bake cache prune --all frees " + frees
		return text + ", or set BAKE_CACHE_DIR to another disk"
	case errors.Is(e.Err, unix.EROFS), errors.Is(e.Err, unix.EACCES), errors.Is(e.Err, unix.EPERM):
		if ownedByOther(e.Path) {
			text += "; it belongs to another user, as after a build with sudo: chown the cache back"
			return text + ", or set BAKE_CACHE_DIR to a writable directory"
		}
		return text + "; set BAKE_CACHE_DIR to a writable directory"
	}
	return text + remedy(e.Err)
}

// remedy returns what the user can do about an error of the system, after a semicolon. It is empty for other errors,
// whose text says it.
func remedy(err error) string {
	for _, r := range []struct {
		text string
		is   []error
	}{
		{"set BAKE_CACHE_DIR to a directory", []error{unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG}},
		{"raise the limit of open files, for example with ulimit -n 4096", []error{unix.EMFILE, unix.ENFILE}},
		{"free memory, or run fewer steps at once with -j", []error{unix.ENOMEM}},
		{"check the disk and the kernel's log, or set BAKE_CACHE_DIR to another disk",
			[]error{unix.EIO, unix.EUCLEAN, unix.ESTALE, unix.ENXIO, unix.ENODEV}},
		{"set BAKE_CACHE_DIR to a directory on a local disk",
			[]error{unix.ENOLCK, unix.ENOSYS, unix.EOPNOTSUPP, unix.EXDEV, unix.EFBIG}},
		{"run the command again; if the error stays, run bake cache check --repair",
			[]error{unix.ENOENT, unix.ENOTEMPTY, unix.EEXIST, unix.EBUSY, unix.EISDIR}},
	} {
		for _, errno := range r.is {
			if errors.Is(err, errno) {
				return "; " + r.text
			}
		}
	}
	return ""
}

// ownedByOther reports whether path, or its nearest parent that can be inspected, belongs to another user.
func ownedByOther(path string) bool {
	for ; path != "/" && path != "."; path = filepath.Dir(path) {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			return int(st.Uid) != unix.Geteuid()
		}
	}
	return false
}

// SystemFault reports whether an error means that this machine, rather than the input of a command, is at fault: a
// disk that is full, read-only or broken, or too few open files, processes or memory.
func SystemFault(err error) bool {
	faults := []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EFBIG}
	return slices.ContainsFunc(faults, func(one error) bool { return errors.Is(err, one) })
}

// DiskFull reports whether an error means that a disk or a quota is full.
func DiskFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// MeasureFreeable sets Freeable of an *Error in err if the disk is full.
func (s *Store) MeasureFreeable(err error) {
	var e *Error
	if DiskFull(err) && errors.As(err, &e) && e.Freeable == 0 {
		e.Freeable, _ = s.Freeable() // if this fails too, the message does without a size
	}
}

// wrap turns err into an *Error unless it is nil or already contains one.
func wrap(op, path string, err error) error {
	var already *Error
	if err == nil || errors.As(err, &already) {
		return err
	}
	return &Error{Op: op, Path: path, Err: err}
}

// checkFileSystem rejects network file systems: their locks do not work between machines.
func checkFileSystem(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	return CheckFileSystem(int64(st.Type))
}

// CheckFileSystem is checkFileSystem for a type of statfs(2).
func CheckFileSystem(kind int64) error {
	switch kind {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.AFS_SUPER_MAGIC,
		unix.CEPH_SUPER_MAGIC:
		return errors.New("the cache cannot be on a network file system; set BAKE_CACHE_DIR to a directory on a " +
			"local disk")
	}
	return nil
}
