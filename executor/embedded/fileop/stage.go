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

// stage is a tree that is being changed: what the layer in upper says, on top of parent. Only this stage writes to upper,
// so what it has made is known without reading it back.
type stage struct {
	parent    *recorder
	root      *os.File // of upper
	userXattr bool
	made      map[string]*made
	changed   bool
	// times are set last, since making something in a directory changes its time.
	times map[string]time.Time
}

// made is a path of upper.
type made struct {
	entry tree.Entry
	gone  bool // a whiteout
	// fresh is a directory that shows nothing of the parent.
	fresh bool
}

// attrs is how a new file looks.
type attrs struct {
	mode   uint32 // permission bits with setuid, setgid and sticky
	owner  owner
	mtime  *time.Time // nil: now
	xattrs map[string][]byte
}

func newStage(parent *recorder, upper string, userXattr bool) (*stage, error) {
	root, err := os.OpenFile(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s := &stage{parent: parent, root: root, userXattr: userXattr, made: map[string]*made{}, times: map[string]time.Time{}}
	e, err := parent.Lookup("/")
	if err == nil {
		err = s.lookLike(int(root.Fd()), e)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	s.made["/"] = &made{entry: e}
	return s, nil
}

func (s *stage) close() { s.root.Close() }

// finish sets the times of directories.
func (s *stage) finish() error {
	for p, t := range s.times {
		if m := s.made[p]; m == nil || m.gone {
			continue // nothing came into it
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

// Lookup shows a path as the stage has it now.
func (s *stage) Lookup(p string) (tree.Entry, error) {
	p = path.Clean("/" + p)
	if m, ok := s.made[p]; ok {
		if m.gone {
			return tree.Entry{}, notExist(p)
		}
		return m.entry, nil
	}
	if s.hidden(p) {
		return tree.Entry{}, notExist(p)
	}
	return s.parent.Lookup(p)
}

// hidden says that upper leaves nothing of the parent at a path that it has not itself.
func (s *stage) hidden(p string) bool {
	for dir := path.Dir(p); ; dir = path.Dir(dir) {
		if m, ok := s.made[dir]; ok {
			return m.gone || m.fresh || !m.entry.IsDir()
		}
	}
}

func notExist(p string) error { return &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist} }

// ReadDir lists a directory as the stage has it now.
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
	if m, ok := s.made[p]; !ok || !m.fresh {
		below, err := s.parent.ReadDir(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range below {
			names[e.Path] = true
		}
	}
	for q := range s.made {
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

// content reads a small file that an action depends on: of the parent, or as an earlier action left it.
func (s *stage) content(p string) ([]byte, error) {
	at, err := tree.Resolve(s, p, true)
	if err != nil {
		return nil, err
	}
	m, ok := s.made[at]
	if !ok && !s.hidden(at) {
		return s.parent.content(p, maxPasswd)
	}
	if !ok || m.gone {
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
		return nil, fmt.Errorf("%s is no regular file of at most %d bytes", f.Name(), maxPasswd)
	}
	raw := make([]byte, info.Size())
	_, err = f.ReadAt(raw, 0)
	return raw, err
}

// openParent opens the directory of upper that holds a path, which is there, and returns the last component.
func (s *stage) openParent(p string) (fd int, name string, err error) {
	if p == "/" {
		fd, err = s.openDir("/")
		return fd, ".", err
	}
	fd, err = s.openDir(path.Dir(p))
	return fd, path.Base(p), err
}

// openDir opens a directory of upper, which is there. Nothing leads out of upper.
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

// need makes sure that upper has a directory that the tree shows, looking as it does there.
func (s *stage) need(p string) error {
	if m, ok := s.made[p]; ok {
		if m.gone || !m.entry.IsDir() {
			return &fs.PathError{Op: "open directory", Path: p, Err: unix.ENOTDIR}
		}
		return nil
	}
	if err := s.need(path.Dir(p)); err != nil {
		return err
	}
	e, err := s.Lookup(p)
	if err != nil {
		return err
	}
	if !e.IsDir() {
		return &fs.PathError{Op: "open directory", Path: p, Err: unix.ENOTDIR}
	}
	fd, err := s.makeDirAt(p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	s.made[p] = &made{entry: e}
	return s.lookLike(fd, e)
}

// makeDirAt makes a directory in upper and opens it. The one above it is there.
func (s *stage) makeDirAt(p string) (int, error) {
	dir, name, err := s.openParent(p)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return -1, &fs.PathError{Op: "mkdir", Path: p, Err: err}
	}
	s.changed = true
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	return fd, nil
}

// lookLike gives an open directory the owner, mode and attributes that the tree shows for it.
func (s *stage) lookLike(fd int, e tree.Entry) error {
	xattrs, err := s.parent.fs.Xattrs(e.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return setFd(fd, e.Path, attrs{mode: e.Mode & 0o7777, owner: owner{e.UID, e.GID}, xattrs: xattrs})
}
