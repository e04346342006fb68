package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// View is the files of this machine as something shows them, such as another revision of a repository. Its paths are absolute. It may
// be used by several goroutines.
type View interface {
	// File is where on the disk the content of a file is.
	File(path string) (string, error)
	// Folder is a directory as the view names it, which need not be on the disk. The error wraps syscall.ENOTDIR for something else.
	Folder(path string) (string, error)
	// Glob lists what a pattern names, sorted.
	Glob(pattern string) ([]string, error)
}

// Disk is the view of what is on the disk.
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
