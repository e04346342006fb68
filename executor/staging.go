package executor

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// staging writes a file tree below a directory without ever leaving it: through os.Root, into a hidden folder first,
// then each file by rename. Nothing that is in the directory already is deleted, except what a new file replaces.
// Files belong to the caller; modes are as they are, setuid and sticky bits included.
type staging struct {
	dest  string
	root  *os.Root // dest
	temp  string   // name of the hidden folder below dest
	files []string // to rename, in tar order
	dirs  []*tar.Header
}

func (s *staging) open() (err error) {
	if err := os.MkdirAll(s.dest, 0o755); err != nil {
		return err
	}
	if s.root, err = os.OpenRoot(s.dest); err != nil {
		return err
	}
	s.temp = ".bake-" + rand.Text()
	return s.root.Mkdir(s.temp, 0o700)
}

// folder makes a folder that no tar entry describes.
func (s *staging) folder(name string) error {
	if name == "" {
		return nil
	}
	s.dirs = append(s.dirs, &tar.Header{Name: name, Mode: 0o755, ModTime: time.Unix(0, 0)})
	return s.root.MkdirAll(path.Join(s.temp, name), 0o700)
}

// local turns a tar name into a path below dest, or "" for the root itself.
func local(folder, name string) (string, error) {
	p := strings.Trim(path.Join(folder, path.Clean("/"+name)), "/")
	if p != "" && !fs.ValidPath(p) && strings.Contains(p, "..") {
		return "", fmt.Errorf("invalid path %q", name)
	}
	return p, nil
}

func (s *staging) add(folder string, h *tar.Header, r io.Reader) error {
	name, err := local(folder, h.Name)
	if err != nil || name == "" {
		return err
	}
	if err := s.make(path.Join(s.temp, name), folder, h, r); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if h.Typeflag == tar.TypeDir {
		d := *h
		d.Name = name
		s.dirs = append(s.dirs, &d)
		return nil
	}
	s.files = append(s.files, name)
	return nil
}

func (s *staging) make(p, folder string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return s.root.MkdirAll(p, 0o700)
	case tar.TypeReg:
		return s.file(p, h, r)
	case tar.TypeSymlink:
		if err := s.root.Symlink(h.Linkname, p); err != nil {
			return err
		}
		return s.linkTime(p, h)
	case tar.TypeLink:
		target, err := local(folder, h.Linkname)
		if err != nil {
			return err
		}
		return s.root.Link(path.Join(s.temp, target), p)
	}
	return s.special(p, h)
}

func (s *staging) file(p string, h *tar.Header, r io.Reader) error {
	f, err := s.root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	for k, v := range h.PAXRecords {
		if k, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			err := unix.Fsetxattr(int(f.Fd()), k, []byte(v), 0)
			if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
				return os.NewSyscallError("setxattr", err)
			}
		}
	}
	if err := f.Chmod(h.FileInfo().Mode()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return s.root.Chtimes(p, h.ModTime, h.ModTime)
}

// special makes a device or FIFO. The parent is opened through the root, and the name is a single component.
func (s *staging) special(p string, h *tar.Header) error {
	dir, err := s.root.Open(path.Dir(p))
	if err != nil {
		return err
	}
	defer dir.Close()
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeChar:
		mode |= unix.S_IFCHR
	case tar.TypeBlock:
		mode |= unix.S_IFBLK
	case tar.TypeFifo:
		mode |= unix.S_IFIFO
	default:
		return fmt.Errorf("unknown tar entry type %q", h.Typeflag)
	}
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	if err := unix.Mknodat(int(dir.Fd()), path.Base(p), mode, int(dev)); err != nil {
		return os.NewSyscallError("mknod", err)
	}
	return s.root.Chmod(p, h.FileInfo().Mode())
}

func (s *staging) linkTime(p string, h *tar.Header) error {
	dir, err := s.root.Open(path.Dir(p))
	if err != nil {
		return err
	}
	defer dir.Close()
	ts := []unix.Timespec{unix.NsecToTimespec(h.ModTime.UnixNano()), unix.NsecToTimespec(h.ModTime.UnixNano())}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(int(dir.Fd()), path.Base(p), ts, unix.AT_SYMLINK_NOFOLLOW))
}

// commit moves everything into place: directories first, then files, then the directories' modes and times, deepest
// first.
func (s *staging) commit(ctx context.Context) error {
	for _, d := range s.dirs {
		if err := s.placeDir(d.Name); err != nil {
			return err
		}
	}
	for _, f := range s.files {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := s.root.Rename(path.Join(s.temp, f), f)
		if fi, no := s.root.Lstat(f); err != nil && no == nil && fi.IsDir() {
			return fmt.Errorf("%s %w, which a file does not replace: remove it first", path.Join(s.dest, f), unix.EISDIR)
		}
		if err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(s.dirs) {
		if err := s.root.Chmod(d.Name, d.FileInfo().Mode()); err != nil {
			return err
		}
		if err := s.root.Chtimes(d.Name, d.ModTime, d.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// placeDir makes a directory. A file or link of that name is replaced, a directory stays.
func (s *staging) placeDir(name string) error {
	fi, err := s.root.Lstat(name)
	if err == nil && fi.IsDir() {
		return nil
	}
	if err == nil {
		if err := s.root.Remove(name); err != nil {
			return err
		}
	}
	return s.root.MkdirAll(name, 0o700)
}

func (s *staging) discard() {
	if s.root == nil {
		return
	}
	if s.temp != "" {
		s.root.RemoveAll(s.temp) // best effort: a hidden folder may stay behind on a broken disk
	}
	s.root.Close()
	s.root = nil
}
