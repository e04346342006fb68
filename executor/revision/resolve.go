package revision

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// maxLinks bounds the symbolic links that one path leads through, as Linux does. A View must refuse what a checkout
// would refuse, so the higher limit of tree.Resolve does not do.
const maxLinks = 40

// errSubmodule is the reason why the files in a submodule are not known: only its commit is compared.
var errSubmodule = errors.New("the submodule that it is in has another commit in this revision")

// errStop ends tree.Resolve at an error of a lookup, which lookup.err holds.
var errStop = errors.New("stop")

// resolve follows the symbolic links of a path in the commit. It returns the path without links, and what the commit
// has there if that differs from the disk. Every part of the path must exist.
func (v *View) resolve(path string) (real string, o *object, err error) {
	l := lookup{view: v, path: path}
	real, err = tree.Resolve(&l, path, true)
	if l.err != nil {
		err = l.err
	}
	if err != nil {
		return "", nil, err
	}
	o, _ = v.at(real)
	return real, o, nil
}

// lookup answers one resolution of a path. It is strict where tree.Resolve is lenient: a missing file is an error,
// since no file can be read at such a path. It passes errors by in err because tree.Resolve accepts fs.ErrNotExist.
type lookup struct {
	view  *View
	path  string
	links int
	err   error
}

// Lookup implements tree.Lookuper. Of the entry, only Mode and Link are set.
func (l *lookup) Lookup(path string) (tree.Entry, error) {
	link, err := l.link(path)
	if err != nil {
		l.err = err
		return tree.Entry{}, errStop
	}
	if link == "" {
		return tree.Entry{}, nil
	}
	return tree.Entry{Mode: unix.S_IFLNK, Link: link}, nil
}

// link returns the target of a symbolic link, "" for another file.
func (l *lookup) link(path string) (link string, err error) {
	if parent, _ := l.view.at(filepath.Dir(path)); parent != nil && parent.submodule() {
		return "", &fs.PathError{Op: "open", Path: l.path, Err: errSubmodule}
	}
	o, differs := l.view.at(path)
	switch {
	case differs && o == nil:
		return "", notExist(path)
	case differs:
		link = o.Link
	default:
		link, err = os.Readlink(path)
		if errors.Is(err, syscall.EINVAL) { // the file is not a link
			return "", nil
		}
	}
	if link != "" {
		l.links++
	}
	if l.links > maxLinks {
		return "", &fs.PathError{Op: "open", Path: l.path, Err: syscall.ELOOP}
	}
	return link, err
}
