package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Space is the free space of a file system, for this user.
type Space struct {
	Free, Size int64 // bytes
	// FreeInodes and Inodes count files that can still be created, and all. Both are 0 where files have no limit of
	// their own.
	FreeInodes, Inodes int64
}

// SpaceOf returns the free space of the file system that holds path or, if path does not exist, its nearest existing
// parent.
func SpaceOf(path string) (Space, error) {
	dir, err := Nearest(path)
	if err != nil {
		return Space{}, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Space{}, &Error{Op: "measure the disk of", Path: dir, Err: err}
	}
	return Space{
		Free: int64(st.Bavail) * st.Frsize, Size: int64(st.Blocks) * st.Frsize,
		FreeInodes: int64(st.Ffree), Inodes: int64(st.Files),
	}, nil
}

// spaceOf is SpaceOf for messages. The zero value is unknown.
func spaceOf(path string) Space {
	s, err := SpaceOf(path)
	if err != nil {
		return Space{}
	}
	return s
}

// lacksInodes reports whether a file system has hardly any inodes.
func (s Space) lacksInodes() bool { return s.Inodes > 0 && s.FreeInodes < 16+s.Inodes/1000 }

// lackedInodes reports whether a write that failed lacked an inode: there is space, and few inodes. Some may be free
// again, because what was unfinished has been removed.
func (s Space) lackedInodes() bool {
	return s.Inodes > 0 && s.FreeInodes < 16+s.Inodes/20 && s.Free > s.Size/50
}

// lacksBytes reports whether less than a hundredth of a file system is free.
func (s Space) lacksBytes() bool { return s.Size > 0 && s.Free < s.Size/100 }

// inodes describes the free inodes.
func (s Space) inodes() string { return fmt.Sprintf(" (%d inodes free of %d)", s.FreeInodes, s.Inodes) }

// bytes describes the free space.
func (s Space) bytes() string {
	if s.Size == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d MB free of %d MB)", s.Free/1e6, s.Size/1e6)
}

// Nearest returns path, or its nearest parent that exists.
func Nearest(path string) (string, error) {
	for {
		_, err := os.Lstat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return "", &Error{Op: "find the cache", Path: path, Err: err}
		}
		path = filepath.Dir(path)
	}
}

// FileSystem returns the name of the kind of file system that holds a path, such as ext4.
func FileSystem(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "unknown"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.FUSE_SUPER_MAGIC: "FUSE",
		unix.F2FS_SUPER_MAGIC: "f2fs", unix.RAMFS_MAGIC: "ramfs", unix.MSDOS_SUPER_MAGIC: "FAT",
		unix.V9FS_MAGIC: "9p", unix.NFS_SUPER_MAGIC: "NFS", unix.CIFS_SUPER_MAGIC: "CIFS",
		unix.SMB2_SUPER_MAGIC: "SMB", unix.SMB_SUPER_MAGIC: "SMB", unix.ECRYPTFS_SUPER_MAGIC: "eCryptfs",
		unix.CEPH_SUPER_MAGIC: "Ceph", 0x2fc12fc1: "ZFS", 0xca451a4e: "bcachefs",
	}
	if name, ok := names[int64(st.Type)&0xffffffff]; ok {
		return name
	}
	return fmt.Sprintf("file system type 0x%x", st.Type)
}

// HoldsLayers reports whether layers can certainly be on the file system of a path. Of others that depends on the
// kernel, on options of the mount and on the user.
func HoldsLayers(path string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false
	}
	switch int64(st.Type) & 0xffffffff {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		return true
	}
	return false
}

// maxInspected bounds the items that Inspect looks at in each directory of the cache.
const maxInspected = 1000

// Inspect reports what Open does not: a list of images that cannot be read, and items that belong to another user, as
// after a build with sudo. It looks only at the first items of each directory. The error is an *Error.
func (s *Store) Inspect() error {
	if _, err := s.Images(); err != nil {
		return err
	}
	owner, err := s.Owner()
	if err != nil {
		return err
	}
	for _, sub := range []string{
		".", dirBlobs, dirEntries, dirCandidates, dirLayers, dirLogs, dirBuilds, dirPacked, dirLocks, dirTmp,
	} {
		if err := s.ownItems(s.path(sub), owner); err != nil {
			return err
		}
	}
	return nil
}

// Owner returns the user id that the cache directory belongs to.
func (s *Store) Owner() (int, error) {
	var st unix.Stat_t
	err := unix.Stat(s.dir, &st)
	return int(st.Uid), wrap("read", s.dir, err)
}

// ownItems returns an error if one of the first items of a directory does not belong to the owner.
func (s *Store) ownItems(dir string, owner int) error {
	f, err := os.Open(dir)
	if err != nil {
		return wrap("read", dir, err)
	}
	defer f.Close()
	names, _ := f.Readdirnames(maxInspected) // io.EOF of an empty directory
	for _, name := range names {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil && int(st.Uid) != owner {
			return &Error{Op: "use", Path: path, Err: unix.EACCES}
		}
	}
	return nil
}
