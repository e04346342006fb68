package tree

import (
	"context"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
)

// Patch overrides files of directories with those of another revision. Its paths are absolute paths of this machine
// without links. Implementations must be safe for concurrent use.
type Patch interface {
	// Overrides returns the overridden names in a directory. A nil entry marks a deleted file. Only Mode, Size and Link
	// of an entry are used.
	Overrides(dir string) map[string]*Entry
	// Touches reports whether anything at, above or below a path is overridden.
	Touches(path string) bool
	// Digest returns the content digest of an overridden regular file.
	Digest(ctx context.Context, path string) (digest.Digest, error)
}

// OpenPatched is OpenLocal with a patch. If the patch has the directory, it may be missing on the disk or a link there.
// Files of the patch cannot be opened.
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
	root, err := openExactRoot(real)
	if err != nil {
		return nil, err
	}
	l, err := newLocal(root, excludes, stat)
	if err != nil {
		return nil, err
	}
	l.patch, l.at = patch, real
	return l, nil
}

// replaces reports whether a patch overrides a directory or one above it.
func replaces(patch Patch, dir string) bool {
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, other := patch.Overrides(filepath.Dir(dir))[filepath.Base(dir)]; other {
			return true
		}
	}
	return false
}

// overrides returns the overridden names in a directory of the context.
func (l *Local) overrides(p string) map[string]*Entry {
	if l.patch == nil {
		return nil
	}
	return l.patch.Overrides(filepath.Join(l.at, p))
}

// fileOf returns an entry of the patch as a file of the context.
func fileOf(e *Entry) foundFile {
	return foundFile{localFile: localFile{mode: e.Mode, size: e.Size, nlink: 1, patched: true}, link: e.Link}
}
