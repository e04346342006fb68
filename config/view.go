package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// View is a view of local files, such as the disk or another revision of a repository. All paths are absolute. A View
// must be safe for use by several goroutines.
type View interface {
	// File returns the path on disk at which the content of a file can be read.
	File(path string) (string, error)
	// Folder checks that path is a directory and returns its name in the view, which need not exist on disk. If path
	// is not a directory, the error wraps syscall.ENOTDIR.
	Folder(path string) (string, error)
	// Glob returns the paths that match a pattern, sorted.
	Glob(pattern string) ([]string, error)
}

// Disk is the View of the files on disk.
type Disk struct{}

// File implements View.
func (Disk) File(path string) (string, error) { return path, nil }

// Folder implements View.
func (Disk) Folder(path string) (string, error) {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	return path, err
}

// Glob implements View.
func (Disk) Glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }
