// Package tree reads one file tree, such as a build context, and digests selections of its files. It never follows a
// link out of the tree.
//
// It is a leaf: it imports nothing of this module and builds on every system. Layers on disk are in
// executor/embedded/layerfs.
package tree

import (
	"context"
	"os"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// Entry is one file of a tree, as lstat would show it.
type Entry struct {
	Path     string // absolute inside the tree: "/", "/usr/bin/x"; slashes, raw bytes
	Mode     uint32 // st_mode with type bits
	UID, GID uint32
	Size     int64
	Mtime    time.Time
	Link     string // target of a symbolic link
	Rdev     uint64
	Inode    uint64 // of hard links, with Dev; 0 is unknown
	Dev      uint64 // what Inode counts in: a layer, or a file system that is part of a context
	Nlink    uint32
}

// FileID identifies a file of a tree: all its hard links have it, and no other file has.
type FileID struct{ Dev, Inode uint64 }

// HardLinked returns the identity of a file that may have other names.
func (e *Entry) HardLinked() (id FileID, ok bool) {
	return FileID{e.Dev, e.Inode}, e.Nlink > 1 && e.Inode != 0
}

// FS is a tree that can be read.
type FS interface {
	// Lookup returns the entry of a path, or an error that wraps fs.ErrNotExist. It follows no symbolic link.
	Lookup(path string) (Entry, error)
	// ReadDir returns the merged content of a directory, sorted by name.
	ReadDir(path string) ([]Entry, error)
	// Open opens a regular file for reading.
	Open(path string) (*os.File, error)
	// Xattrs returns what a copy keeps: security.capability and user.*, never overlayfs's own.
	Xattrs(path string) (map[string][]byte, error)
	// Digest returns the content digest of a regular file.
	Digest(ctx context.Context, path string) (digest.Digest, error)
}

// MaxXattrs bounds the extended attributes of one file, in bytes, as Linux does.
const MaxXattrs = 64 << 10

// Kept reports whether a copy keeps an extended attribute.
func Kept(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}
