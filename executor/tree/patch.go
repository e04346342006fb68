package tree

import (
	"context"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
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
