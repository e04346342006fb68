package revision

import (
	"context"
	"crypto/sha256"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/tree"
)

// View shows the files of this machine as they would be with a commit checked out.
//
// A checkout of the commit would cost time and disk space in proportion to the repository, and no file in it would
// be known to the index of file digests. A View holds only the paths that differ from the working tree, as git
// reports them, and reads every other path from the disk. The invariant: for each path, inside the checkout or not,
// a View shows what the disk would have after "git checkout" and "git clean -x". Git records of a file's
// permissions only whether it is executable; where that agrees, the permissions are those of the working tree.
// If a path that differs were missing here, affected would not name the targets that read it; a path too many costs
// only time. TestViewIsCheckout compares views with checkouts.
//
// Files inside a submodule of another commit are not known: the commit id stands for all of them.
//
// A View may be used by several goroutines. It is valid until the files in the working tree change.
type View struct {
	blobs *blobs
	// changes holds the paths that differ, by folder and name. A nil object is a path that the commit does not have.
	changes map[string]map[string]*object
	// above holds every folder with a path of changes at any depth below it.
	above map[string]bool
}

var (
	_ config.View = (*View)(nil)
	_ tree.Patch  = (*View)(nil)
)

// object is a file, symbolic link, folder or submodule of a commit.
type object struct {
	tree.Entry
	id string // of the blob or of the submodule's commit; "" for a folder
	// converted is set where git attributes of the commit write the file differently than those of the working tree
	// do. It identifies these attributes.
	converted string
}

// submodule reports whether the object is a commit of another repository. Its mode has no permissions.
func (o *object) submodule() bool { return o.Mode == unix.S_IFREG }

// WorkingTree returns the view of the working tree itself, with its untracked files.
func (c *Checkout) WorkingTree() *View { return &View{blobs: c.blobs} }

// change records what a path is in the commit.
func (v *View) change(path string, o *object) {
	dir := filepath.Dir(path)
	if v.changes[dir] == nil {
		v.changes[dir] = map[string]*object{}
	}
	v.changes[dir][filepath.Base(path)] = o
	for ; !v.above[dir]; dir = filepath.Dir(dir) {
		v.above[dir] = true
	}
}

// at returns what a path without symbolic links is in the commit. It is on the disk as in the commit if not differs.
func (v *View) at(path string) (o *object, differs bool) {
	o, differs = v.changes[filepath.Dir(path)][filepath.Base(path)]
	return o, differs
}

// Differs reports whether any path differs from the working tree.
func (v *View) Differs() bool { return len(v.changes) > 0 }

// Differences returns the paths that differ from the working tree, absolute and in no order.
func (v *View) Differences() iter.Seq[string] {
	return func(yield func(string) bool) {
		for dir, names := range v.changes {
			for name := range names {
				if !yield(filepath.Join(dir, name)) {
					return
				}
			}
		}
	}
}

// Overrides implements tree.Patch.
func (v *View) Overrides(dir string) map[string]*tree.Entry {
	if len(v.changes[dir]) == 0 {
		return nil
	}
	all := make(map[string]*tree.Entry, len(v.changes[dir]))
	for name, o := range v.changes[dir] {
		all[name] = nil
		if o != nil {
			all[name] = &o.Entry
		}
	}
	return all
}

// Touches implements tree.Patch.
func (v *View) Touches(path string) bool {
	if v.above[path] {
		return true
	}
	for ; path != "/"; path = filepath.Dir(path) {
		if _, differs := v.at(path); differs {
			return true
		}
	}
	return false
}

// Digest implements tree.Patch. Where content is not known, of a converted file or a submodule, it is the digest of
// what the content depends on: equal digests still mean equal files.
func (v *View) Digest(_ context.Context, path string) (digest.Digest, error) {
	o, _ := v.at(path)
	switch {
	case o == nil:
		return "", notExist(path)
	case o.converted != "" || o.submodule():
		return digest.FromString(o.id + " " + o.converted), nil
	}
	h := sha256.New()
	if err := v.blobs.read(o.id, math.MaxInt64, h); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

func notExist(path string) error {
	return &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// maxWritten bounds a file that File writes to the disk, in bytes. Dockerfiles and project files are smaller.
const maxWritten = 64 << 20

// File implements config.View. A file that differs is written to a temporary directory.
func (v *View) File(path string) (string, error) {
	real, o, err := v.resolve(path)
	if err != nil || o == nil {
		return real, err
	}
	if o.IsDir() || o.submodule() {
		return "", &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	}
	return v.blobs.file(o.id, maxWritten)
}

// Folder implements config.View.
func (v *View) Folder(path string) (string, error) {
	real, o, err := v.resolve(path)
	if err != nil {
		return "", err
	}
	isDir := o != nil && o.IsDir()
	if o == nil {
		info, err := os.Stat(real)
		if err != nil {
			return "", err
		}
		isDir = info.IsDir()
	}
	if !isDir {
		return "", &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	return real, nil
}

// Glob implements config.View. A pattern is matched through folders of the disk and against each path that differs;
// the matches that the commit does not have are removed.
func (v *View) Glob(pattern string) ([]string, error) {
	all, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	for path := range v.Differences() {
		if ok, err := filepath.Match(pattern, path); err == nil && ok {
			all = append(all, path)
		}
	}
	all = slices.DeleteFunc(all, func(p string) bool { _, _, err := v.resolve(p); return err != nil })
	slices.Sort(all)
	return slices.Compact(all), nil
}
