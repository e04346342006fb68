package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// revision is the files of this machine as they would be with a commit checked out: the disk, but for what git says is otherwise in the
// working tree. The zero changes are the working tree itself. It implements config.View and tree.Patch.
type revision struct {
	objects *objects
	temp    string // for files that have to be on the disk
	// changes are what is otherwise, by folder and name; nil for what is not there.
	changes map[string]map[string]*object
	// above are the folders with something below them that is otherwise.
	above map[string]bool
}

// object is a file, link, folder or submodule of a commit.
type object struct {
	tree.Entry
	id string // of the blob or the commit; empty for a folder
	// converted is what the attributes say of how the file is written to the disk, where that is not as in the working tree.
	converted string
}

// change notes what a path is in the commit.
func (r *revision) change(path string, o *object) {
	dir := filepath.Dir(path)
	if r.changes[dir] == nil {
		r.changes[dir] = map[string]*object{}
	}
	r.changes[dir][filepath.Base(path)] = o
	for ; !r.above[dir]; dir = filepath.Dir(dir) {
		r.above[dir] = true
	}
}

// at is what a path without links is in the commit; known is false where it is as on the disk.
func (r *revision) at(path string) (o *object, known bool) {
	o, known = r.changes[filepath.Dir(path)][filepath.Base(path)]
	return o, known
}

// Changed implements tree.Patch.
func (r *revision) Changed(dir string) map[string]*tree.Entry {
	if len(r.changes[dir]) == 0 {
		return nil
	}
	all := make(map[string]*tree.Entry, len(r.changes[dir]))
	for name, o := range r.changes[dir] {
		all[name] = nil
		if o != nil {
			all[name] = &o.Entry
		}
	}
	return all
}

// Touches implements tree.Patch.
func (r *revision) Touches(path string) bool {
	if r.above[path] {
		return true
	}
	for ; path != "/"; path = filepath.Dir(path) {
		if _, known := r.at(path); known {
			return true
		}
	}
	return false
}

// Digest implements tree.Patch.
func (r *revision) Digest(_ context.Context, path string) (digest.Digest, error) {
	o, _ := r.at(path)
	switch {
	case o == nil:
		return "", noFile(path)
	case o.converted != "" || o.submodule():
		return digest.FromString(o.id + " " + o.converted), nil // what its files are is not looked at
	}
	h := sha256.New()
	if err := r.objects.read(o.id, math.MaxInt64, h); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// submodule says whether the object is a commit of another repository.
func (o *object) submodule() bool { return o.Mode == unix.S_IFREG }

func noFile(path string) error {
	return &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// maxWritten bounds a file that is written to the disk, in bytes: more than anything that is read of it.
const maxWritten = 64 << 20

// maxLinks bounds how many links a path may lead through.
const maxLinks = 40

// errElsewhere is why nothing is known of the files in a submodule: only its commit is compared.
var errElsewhere = errors.New("it is in a submodule, which has another commit in that revision")

// resolve follows the links of a path, and gives what is there if that is not on the disk.
func (r *revision) resolve(path string) (real string, o *object, err error) {
	at, rest, links := "/", strings.Split(path, "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		if o != nil && o.submodule() {
			return "", nil, &fs.PathError{Op: "open", Path: path, Err: errElsewhere}
		}
		next := filepath.Join(at, name) // at has no links, so that ".." is its folder
		link, here, err := r.link(next)
		if err != nil {
			return "", nil, err
		}
		if link == "" {
			at, o = next, here
			continue
		}
		if links++; links > maxLinks {
			return "", nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
		}
		if filepath.IsAbs(link) {
			at = "/"
		}
		rest = append(strings.Split(link, "/"), rest...)
	}
	return at, o, nil
}

// link is where a link leads, "" for what is none.
func (r *revision) link(path string) (string, *object, error) {
	o, known := r.at(path)
	switch {
	case known && o == nil:
		return "", nil, noFile(path)
	case known:
		return o.Link, o, nil
	}
	link, err := os.Readlink(path)
	if errors.Is(err, syscall.EINVAL) {
		err = nil
	}
	return link, nil, err
}

// File implements config.View.
func (r *revision) File(path string) (string, error) {
	real, o, err := r.resolve(path)
	if err != nil || o == nil {
		return real, err
	}
	if o.IsDir() || o.submodule() {
		return "", &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	}
	written := filepath.Join(r.temp, o.id)
	if _, err := os.Stat(written); err == nil {
		return written, nil
	}
	f, err := os.CreateTemp(r.temp, "")
	if err != nil {
		return "", err
	}
	err = errors.Join(r.objects.read(o.id, maxWritten, f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), written)
	}
	return written, err
}

// Folder implements config.View.
func (r *revision) Folder(path string) (string, error) {
	real, o, err := r.resolve(path)
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

// Glob implements config.View.
func (r *revision) Glob(pattern string) ([]string, error) {
	all, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	for dir, names := range r.changes {
		for name := range names {
			if ok, err := filepath.Match(pattern, filepath.Join(dir, name)); err == nil && ok {
				all = append(all, filepath.Join(dir, name))
			}
		}
	}
	all = slices.DeleteFunc(all, func(p string) bool { _, _, err := r.resolve(p); return err != nil })
	slices.Sort(all)
	return slices.Compact(all), nil
}
