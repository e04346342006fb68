package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Patch is what directories have otherwise than this machine's disk shows, as in another revision. Its paths are absolute
// ones of the machine without links in them. It may be used by several goroutines.
type Patch interface {
	// Changed are the names in a directory that are otherwise: what each is, nil for one that is not there. Of an entry Mode, Size and
	// Link count.
	Changed(dir string) map[string]*Entry
	// Touches says whether anything at a path, above or below it is otherwise.
	Touches(path string) bool
	// Digest is the content digest of a regular file that is otherwise.
	Digest(ctx context.Context, path string) (digest.Digest, error)
}

// OpenPatched is OpenLocal with a patch on the directory, which need not be on the disk where the patch has it, and of which the disk
// may have a link there. Files of the patch cannot be opened.
func OpenPatched(ctx context.Context, dir string, excludes []string, stat *StatIndex, patch Patch) (*Local, error) {
	if patch == nil {
		return OpenLocal(ctx, dir, excludes, stat)
	}
	real := filepath.Clean(dir)
	if !replaces(patch, real) {
		var err error
		if real, err = filepath.EvalSymlinks(dir); err != nil {
			return nil, err
		}
	}
	slash, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer slash.Close()
	fd, err := OpenBeneath(slash, real, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		fd, err = unix.Open(os.DevNull, unix.O_PATH|unix.O_CLOEXEC, 0) // below it there is nothing
	}
	if err != nil {
		return nil, err
	}
	root := os.NewFile(uintptr(fd), real)
	l, err := newLocal(root, excludes, stat)
	if err != nil {
		return nil, err
	}
	l.patch, l.at = patch, real
	return l, nil
}

// replaces says whether a patch has a directory, or one that it is in, where the disk has something else.
func replaces(patch Patch, dir string) bool {
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, other := patch.Changed(filepath.Dir(dir))[filepath.Base(dir)]; other {
			return true
		}
	}
	return false
}

// changed are the names in a directory of the context that are otherwise.
func (l *Local) changed(p string) map[string]*Entry {
	if l.patch == nil {
		return nil
	}
	return l.patch.Changed(filepath.Join(l.at, p))
}

// fileOf is an entry of the patch as a file of the context.
func fileOf(e *Entry) foundFile {
	return foundFile{localFile: localFile{mode: e.Mode, size: e.Size, nlink: 1, patched: true}, link: e.Link}
}

// onDisk is a name in a directory of the disk.
type onDisk struct {
	fd        int // of the directory
	dir, name string
}

func (o onDisk) path() string { return childOf(o.dir, o.name) }

func (o onDisk) stat() (f foundFile, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(o.fd, o.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return f, &fs.PathError{Op: "stat", Path: o.path(), Err: err}
	}
	f.localFile = localFile{
		mode: st.Mode, nlink: uint32(st.Nlink), size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(),
		inode: st.Ino, dev: uint64(st.Dev), rdev: uint64(st.Rdev),
	}
	if f.mode&unix.S_IFMT != unix.S_IFLNK {
		return f, nil
	}
	f.link, err = ReadlinkAt(o.fd, o.name)
	if errors.Is(err, unix.EINVAL) {
		return f, fmt.Errorf("%s: %w", o.path(), ErrChanged) // no link any more
	}
	if err != nil {
		return f, &fs.PathError{Op: "readlink", Path: o.path(), Err: err}
	}
	return f, nil
}
