package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// stage is the tree that the actions change: the new layer in the directory upper, on top of the parent. Nothing else
// writes to upper, so the map upper has all its paths, and the stage never lists the directory.
//
// The layer is encoded for overlayfs: a removed path of the parent is a whiteout (a device 0:0), and a directory that
// replaces one of the parent is opaque. The invariant: Lookup and ReadDir return what overlayfs will show when upper is
// mounted on the parent. So a whiteout is written only if the parent shows the path, a new directory is opaque if it
// would otherwise be merged with one of the parent, and creating a file at a whiteout removes the whiteout first.
// Otherwise files of the base would reappear in a directory that an action has replaced. TestActions ("remove and make
// again") and TestCopyAsBuildKit check the merged tree.
type stage struct {
	parent    *recorder
	root      *os.File // of upper
	userXattr bool
	bare      bool // see Request.Link
	upper     map[string]*upperEntry
	changed   bool
	unknown   []UnknownName
	// times are the times of directories. finish sets them, since creating a file changes the time of its directory.
	times map[string]time.Time
}

// upperEntry is a path of upper.
type upperEntry struct {
	entry    tree.Entry
	whiteout bool
	// fresh marks a directory that shows nothing of the parent.
	fresh bool
}

// attrs holds the attributes of a new file.
type attrs struct {
	mode uint32 // permission bits with setuid, setgid and sticky
	// owner is nil for the owner that the kernel gives to new files: root, and the group of a setgid directory.
	owner  *owner
	mtime  *time.Time // nil: now
	xattrs map[string][]byte
	// inherit keeps what a new directory inherits from its parent: the setgid bit and the default ACL.
	inherit bool
	// setMode sets the mode of a directory that inherits where the inherited ACL has masked it. This clears setgid.
	setMode bool
}

func newStage(parent *recorder, r Request) (*stage, error) {
	root, err := os.OpenFile(r.Upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s := &stage{
		parent: parent, root: root, userXattr: r.UserXattr, bare: r.Link,
		upper: map[string]*upperEntry{}, times: map[string]time.Time{},
	}
	e, err := parent.Lookup("/")
	if err == nil {
		err = s.copyBare(int(root.Fd()), e)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	s.upper["/"] = &upperEntry{entry: e}
	return s, nil
}

func (s *stage) close() { s.root.Close() }

// finish sets the attributes that directories must not have before, and times.
func (s *stage) finish() error {
	for p := range s.upper {
		if err := s.finishDir(p); err != nil {
			return err
		}
	}
	for p, t := range s.times {
		if m := s.upper[p]; m == nil || m.whiteout {
			continue // upper does not hold it
		}
		dir, name, err := s.openParent(p)
		if err != nil {
			return err
		}
		err = setTime(dir, name, t)
		unix.Close(dir)
		if err != nil {
			return &fs.PathError{Op: "set the time of", Path: p, Err: err}
		}
	}
	return nil
}

// Lookup looks up a path in the tree as changed so far.
func (s *stage) Lookup(p string) (tree.Entry, error) {
	p = path.Clean("/" + p)
	if m, ok := s.upper[p]; ok {
		if m.whiteout {
			return tree.Entry{}, notExist(p)
		}
		return m.entry, nil
	}
	if s.hidden(p) {
		return tree.Entry{}, notExist(p)
	}
	return s.parent.Lookup(p)
}

// hidden reports whether upper hides the parent at a path that upper itself does not hold.
func (s *stage) hidden(p string) bool {
	for dir := path.Dir(p); ; dir = path.Dir(dir) {
		if m, ok := s.upper[dir]; ok {
			return m.whiteout || m.fresh || !m.entry.IsDir()
		}
	}
}

func notExist(p string) error { return &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist} }

// ReadDir lists a directory of the tree as changed so far.
func (s *stage) ReadDir(p string) ([]tree.Entry, error) {
	p = path.Clean("/" + p)
	e, err := s.Lookup(p)
	if err != nil {
		return nil, err
	}
	if !e.IsDir() {
		return nil, notExist(p)
	}
	names := map[string]bool{}
	if m, ok := s.upper[p]; !ok || !m.fresh {
		below, err := s.parent.ReadDir(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range below {
			names[e.Path] = true
		}
	}
	for q := range s.upper {
		if q != "/" && path.Dir(q) == p {
			names[q] = true
		}
	}
	return s.lookupAll(names)
}

func (s *stage) lookupAll(names map[string]bool) ([]tree.Entry, error) {
	var all []tree.Entry
	for _, q := range sortedKeys(names) {
		e, err := s.Lookup(q)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// content reads a small file on which an action depends, from upper or from the parent.
func (s *stage) content(p string) ([]byte, error) {
	at, err := tree.Resolve(s, p, true)
	if err != nil {
		return nil, err
	}
	m, ok := s.upper[at]
	if !ok && !s.hidden(at) {
		return s.parent.content(p, maxPasswd)
	}
	if !ok || m.whiteout {
		return nil, notExist(p)
	}
	dir, name, err := s.openParent(at)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	return readRegular(f)
}

func readRegular(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxPasswd {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", f.Name(), maxPasswd)
	}
	raw := make([]byte, info.Size())
	_, err = f.ReadAt(raw, 0)
	return raw, err
}

// openParent opens the directory of upper that holds a path, and returns the last component. The directory must exist.
func (s *stage) openParent(p string) (fd int, name string, err error) {
	if p == "/" {
		fd, err = s.openDir("/")
		return fd, ".", err
	}
	fd, err = s.openDir(path.Dir(p))
	return fd, path.Base(p), err
}

// openDir opens an existing directory of upper. No link and no ".." leads out of upper.
func (s *stage) openDir(p string) (int, error) {
	rel := strings.TrimPrefix(p, "/")
	if rel == "" {
		rel = "."
	}
	fd, err := unix.Openat2(int(s.root.Fd()), rel, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	return fd, nil
}

// copyUpDir creates a directory of the tree in upper, with its attributes, unless upper has it.
func (s *stage) copyUpDir(p string) error {
	if m, ok := s.upper[p]; ok {
		if m.whiteout || !m.entry.IsDir() {
			return &fs.PathError{Op: "open directory", Path: p, Err: unix.ENOTDIR}
		}
		return nil
	}
	if err := s.copyUpDir(path.Dir(p)); err != nil {
		return err
	}
	e, err := s.Lookup(p)
	if err != nil {
		return err
	}
	if !e.IsDir() {
		return &fs.PathError{Op: "open directory", Path: p, Err: unix.ENOTDIR}
	}
	fd, err := s.makeDirAt(p, 0o700)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	s.upper[p] = &upperEntry{entry: e}
	return s.copyBare(fd, e)
}

// copyBare is copyAttrs without what new directories inherit, if they must not. finishDir adds it.
func (s *stage) copyBare(fd int, e tree.Entry) error {
	if !s.bare {
		return s.copyAttrs(fd, e)
	}
	return setFd(fd, e.Path, attrs{mode: e.Mode & 0o777, owner: &owner{e.UID, e.GID}})
}

// finishDir completes a directory of the parent that copyBare created and no action has changed.
func (s *stage) finishDir(p string) error {
	m := s.upper[p]
	if !s.bare || m.whiteout || m.fresh || !m.entry.IsDir() {
		return nil
	}
	e, err := s.parent.fs.Lookup(p)
	if err != nil || e.Mode != m.entry.Mode || e.UID != m.entry.UID || e.GID != m.entry.GID {
		return nil
	}
	fd, err := s.openDir(p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return s.copyAttrs(fd, e)
}

// makeDirAt creates a directory in upper and opens it. Its parent must exist.
func (s *stage) makeDirAt(p string, mode uint32) (int, error) {
	dir, name, err := s.openParent(p)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	if err := unix.Mkdirat(dir, name, mode); err != nil {
		return -1, &fs.PathError{Op: "mkdir", Path: p, Err: err}
	}
	s.changed = true
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	return fd, nil
}

// copyAttrs gives an open directory the owner, mode and xattrs of the parent's directory e.
func (s *stage) copyAttrs(fd int, e tree.Entry) error {
	xattrs, err := s.parent.fs.Xattrs(e.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := dropACL(fd, xattrs); err != nil {
		return &fs.PathError{Op: "remove the ACL of", Path: e.Path, Err: err}
	}
	return setFd(fd, e.Path, attrs{mode: e.Mode & 0o7777, owner: &owner{e.UID, e.GID}, xattrs: xattrs})
}
