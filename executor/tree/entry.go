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

// HardLinked returns the identity of a file that may have other names. It may report true for directories, whose
// link count includes their subdirectories: callers must exclude them.
func (e *Entry) HardLinked() (id FileID, ok bool) {
	return FileID{e.Dev, e.Inode}, e.Nlink > 1 && e.Inode != 0
}

// FS is a tree that can be read. It accepts any path and cleans it with Rooted. It never follows symbolic links: a path
// through a link does not exist; Resolve follows links. Implementations are safe for concurrent use.
//
// A read may fail although the file exists: with a *layerfs.PackedError if its layer is not unpacked yet, and with an
// error that wraps ErrChanged if a file of a build context changed.
type FS interface {
	// Lookup returns the entry of a path, or an error that wraps fs.ErrNotExist. It follows no symbolic link.
	Lookup(path string) (Entry, error)
	// ReadDir returns the merged content of a directory, sorted by name.
	ReadDir(path string) ([]Entry, error)
	// Open opens a regular file for reading.
	Open(path string) (*os.File, error)
	// Xattrs returns the attributes that a copy keeps: security.capability, POSIX ACLs and user.*, never those of
	// overlayfs.
	Xattrs(path string) (map[string][]byte, error)
	// Digest returns the content digest of a regular file.
	Digest(ctx context.Context, path string) (digest.Digest, error)
}

// MaxXattrs is Linux's limit, in bytes, for the list of a file's attribute names and for each value.
const MaxXattrs = 64 << 10

// Kept reports whether a copy keeps an extended attribute.
func Kept(name string) bool {
	return name == "security.capability" || IsACL(name) ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// IsACL reports whether an extended attribute is a POSIX ACL.
func IsACL(name string) bool {
	return name == "system.posix_acl_access" || name == "system.posix_acl_default"
}
