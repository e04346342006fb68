//go:build !unix

package tree

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// diskRoot is the directory of a build context. os.Root keeps every path below it.
type diskRoot struct{ root *os.Root } // nil is an empty directory

// RootPool bounds how many directories are open on other systems; here each stays open.
type RootPool struct{}

func (r *diskRoot) share(*RootPool) {}

// openDiskRoot opens a directory; links in its path are followed.
func openDiskRoot(dir string) (*diskRoot, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &diskRoot{root}, nil
}

// openExactRoot opens a directory by its absolute path. If that path does not exist, or leads through a link, the
// root is empty.
func openExactRoot(dir string) (*diskRoot, error) {
	for at := dir; at != filepath.Dir(at); at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil || !info.IsDir() {
			return &diskRoot{}, nil
		}
	}
	return openDiskRoot(dir)
}

func (r *diskRoot) close() error {
	if r.root == nil {
		return nil
	}
	return r.root.Close()
}

// mtime returns the modification time of the directory itself.
func (r *diskRoot) mtime() (time.Time, error) {
	if r.root == nil {
		return time.Time{}, nil
	}
	info, err := r.root.Stat(".")
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// open opens a regular file for reading.
func (r *diskRoot) open(p string) (*os.File, error) {
	info, err := r.lstat(p)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: p, Err: errNotRegular}
	}
	return r.root.Open(inRoot(p))
}

// dir opens a directory. The caller closes it.
func (r *diskRoot) dir(p string) (*diskDir, error) {
	info, err := r.lstat(p)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, notExist(p)
	}
	root, err := r.root.OpenRoot(inRoot(p))
	if err != nil {
		return nil, err
	}
	return &diskDir{p, root}, nil
}

// lstat returns the attributes of a path. A path below a link or a file does not exist.
func (r *diskRoot) lstat(p string) (fs.FileInfo, error) {
	if r.root == nil {
		return nil, notExist(p)
	}
	name := inRoot(p)
	for i, c := range name {
		if c != '/' {
			continue
		}
		if info, err := r.root.Lstat(name[:i]); err != nil || !info.IsDir() {
			return nil, notExist(p)
		}
	}
	return r.root.Lstat(name)
}

// inRoot returns a clean path in the form that os.Root accepts.
func inRoot(p string) string {
	if p == "/" {
		return "."
	}
	return strings.TrimPrefix(p, "/")
}

// diskDir is an open directory of a build context.
type diskDir struct {
	path string
	root *os.Root
}

func (d *diskDir) close() error { return d.root.Close() }

// names lists the directory in no particular order.
func (d *diskDir) names() ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// stat returns the file at a name in the directory. The error wraps fs.ErrNotExist if it has vanished. There is no
// inode number, so the stat index stores nothing. Modes are those that BuildKit's client sends from Windows: every file
// is executable, and only its owner may write it.
func (d *diskDir) stat(name string) (f foundFile, err error) {
	info, err := d.root.Lstat(name)
	if err != nil {
		return f, err
	}
	f.localFile = localFile{
		mode: uint32(info.Mode().Perm()|0o111) & 0o755, nlink: 1, size: info.Size(), mtime: info.ModTime().UnixNano(),
	}
	switch t := info.Mode().Type(); {
	case t.IsDir():
		f.mode |= ModeDir
	case t&(fs.ModeSymlink|fs.ModeIrregular) != 0: // a junction is irregular
		f.mode = ModeLink | 0o777
		if f.link, err = d.root.Readlink(name); err != nil {
			return f, fmt.Errorf("%s: %w", childOf(d.path, name), err)
		}
		f.link = filepath.ToSlash(f.link)
	case t&fs.ModeSocket != 0:
		f.mode |= ModeSocket
	case t&fs.ModeNamedPipe != 0:
		f.mode |= ModePipe
	case t&fs.ModeDevice != 0:
		f.mode |= ModeChar
	default:
		f.mode |= ModeRegular
	}
	return f, nil
}
