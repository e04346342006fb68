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

// staging writes a file tree below a directory. The directory may hold other files, and the tree comes from an image
// that no one has checked. So all access is through os.Root, which no symbolic link leaves, and the tree goes into a
// hidden folder of the directory first. Nothing outside that folder changes before commit, which renames each file to
// its place. So an error while writing leaves the directory as it was, and every file is old or new as a whole. A
// commit that fails between two files leaves some of them new; the directory as a whole has no atomic rename, since its
// other files stay. Files are not synced: after a crash of the machine the output is written again. TestExportLocal and
// TestExportLocalInTheWay show it.
//
// Existing files are deleted only if a new file replaces them. A directory is deleted only if a new file replaces it
// and it is empty, or has just what earlier outputs wrote there. Files belong to the caller. Modes are kept, with
// setuid and sticky bits.
type staging struct {
	dest  string
	root  *os.Root      // dest; closed between prepare and commit, so that the roots of many targets are not all open
	temp  string        // name of the hidden folder below dest
	files []string      // to rename, in tar order
	dirs  []*tar.Header // in tar order
	// written remembers what outputs wrote; nil forgets it. before is what it has of dest, once it was read.
	written WrittenDirs
	before  map[string]string
}

// open creates the directory and the hidden folder.
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

// close ends the preparation. commit and discard open the directory again: the hidden folder has a random name, so
// another directory that has its path by then does not have it.
func (s *staging) close() error {
	root := s.root
	s.root = nil
	if root == nil {
		return nil
	}
	return root.Close()
}

// folder creates a folder that has no tar entry.
func (s *staging) folder(name string) error {
	if name == "" {
		return nil
	}
	s.dirs = append(s.dirs, &tar.Header{Name: name, Mode: 0o755, ModTime: time.Unix(0, 0)})
	return s.root.MkdirAll(path.Join(s.temp, name), 0o700)
}

// local returns the path below dest of a tar name, or "" for the root itself.
func local(folder, name string) (string, error) {
	p := strings.Trim(path.Join(folder, path.Clean("/"+name)), "/")
	if p != "" && !fs.ValidPath(p) && strings.Contains(p, "..") {
		return "", fmt.Errorf("invalid path %q", name)
	}
	return p, nil
}

// add writes a tar entry to the hidden folder.
func (s *staging) add(folder string, h *tar.Header, r io.Reader) error {
	name, err := local(folder, h.Name)
	if err != nil || name == "" {
		return err
	}
	if err := s.create(path.Join(s.temp, name), folder, h, r); err != nil {
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

func (s *staging) create(p, folder string, h *tar.Header, r io.Reader) error {
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

// special creates a device or FIFO. The parent is opened through the root, and the name is a single component, so that
// the call cannot leave the directory.
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

// commit moves everything into place: directories first, then files, then modes and times of directories, deepest
// first, since a file that is added changes the time of its directory.
func (s *staging) commit(ctx context.Context) (err error) {
	if s.root, err = os.OpenRoot(s.dest); err != nil {
		return err
	}
	defer s.discard()
	dirs := s.recorded()
	for _, d := range s.dirs {
		if err := s.placeDir(d.Name); err != nil {
			return err
		}
	}
	for _, f := range s.files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if fi, err := s.root.Lstat(f); err == nil && fi.IsDir() {
			if err := s.replaceDir(f); err != nil {
				return err
			}
		}
		if err := s.root.Rename(path.Join(s.temp, f), f); err != nil {
			return err
		}
	}
	s.remember(dirs)
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

// placeDir creates a directory. It replaces a file or link with that name; a directory stays.
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

// discard removes the hidden folder.
func (s *staging) discard() {
	if s.temp == "" {
		return
	}
	if s.root == nil {
		root, err := os.OpenRoot(s.dest)
		if err != nil {
			return
		}
		s.root = root
	}
	s.root.RemoveAll(s.temp) // best effort: on a broken disk the hidden folder may stay
	s.temp = ""
	s.close()
}
