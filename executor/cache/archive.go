package cache

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An archive holds everything of a layer's directory that overlayfs and steps can see: whiteouts, opaque directories,
// extended attributes, owners, links, devices, sockets and times in nanoseconds. So a layer that is unpacked from its
// archive packs to the same blob as the directory that the archive was made of. TestArchive compares the two.

// The names of PAX records of an archive.
const (
	paxXattr  = "SCHILY.xattr."
	paxSocket = "BAKE.socket" // a tar has no type for sockets: they are FIFOs with this record
)

// archiver writes an archive.
type archiver struct {
	dir   string
	tar   *tar.Writer
	links map[uint64]string // the first name of each file with several names, by inode
}

// writeArchive writes the files of dir to a new file and returns the digest of its bytes.
func writeArchive(dir, file string) (sum string, err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", err
	}
	out, hash := &sparseFile{File: f}, sha256.New()
	a := archiver{dir: dir, tar: tar.NewWriter(io.MultiWriter(out, hash)), links: map[uint64]string{}}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return a.add(path)
	})
	if err == nil {
		err = a.tar.Close()
	}
	return hex.EncodeToString(hash.Sum(nil)), errors.Join(err, out.end(), f.Close())
}

// add writes one file.
func (a *archiver) add(path string) error {
	rel, err := filepath.Rel(a.dir, path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	h := &tar.Header{
		Format: tar.FormatPAX, Name: rel, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), PAXRecords: map[string]string{},
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if first, ok := a.links[st.Ino]; ok && st.Nlink > 1 && !isDir {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return a.tar.WriteHeader(h)
	}
	if st.Nlink > 1 && !isDir {
		a.links[st.Ino] = rel
	}
	if err := describe(path, &st, h); err != nil {
		return err
	}
	if err := addXattrs(path, h.PAXRecords); err != nil {
		return err
	}
	if err := a.tar.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(a.tar, f)
	return err
}

// describe sets the type of a file.
func describe(path string, st *unix.Stat_t, h *tar.Header) (err error) {
	h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		h.Linkname, err = os.Readlink(path)
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFSOCK:
		h.Typeflag, h.PAXRecords[paxSocket] = tar.TypeFifo, "1"
	default:
		err = fmt.Errorf("%s has an unknown type", path)
	}
	return err
}

// addXattrs adds the extended attributes of a file, except those that only describe it on the file system it is on.
func addXattrs(path string, records map[string]string) error {
	names, err := readXattr(func(p []byte) (int, error) { return unix.Llistxattr(path, p) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(names), "\x00"), "\x00") {
		kind, rest, _ := strings.Cut(name, ".")
		if name == "" || kind == "security" && rest != "capability" ||
			strings.HasPrefix(rest, "overlay.") && rest != "overlay.opaque" {
			continue
		}
		value, err := readXattr(func(p []byte) (int, error) { return unix.Lgetxattr(path, name, p) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		records[paxXattr+name] = string(value)
	}
	return nil
}

// readXattr calls read with a buffer that is large enough for any list or value.
func readXattr(read func([]byte) (int, error)) ([]byte, error) {
	n, err := read(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, 1<<16) // the kernel's limit of both
	if n, err = read(buf); err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// readArchive unpacks an archive into a new directory. The error is errDamaged if the bytes are not those that
// writeArchive wrote, whatever else that led to.
func readArchive(file, dir, sum string) error {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	in := io.TeeReader(f, hash)
	restoreErr := restoreAll(dir, in)
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if hex.EncodeToString(hash.Sum(nil)) != sum {
		return errDamaged
	}
	return restoreErr
}

// restoreAll creates all files of an archive.
func restoreAll(dir string, archive io.Reader) error {
	var dirs []*tar.Header // their times are set last
	for t := tar.NewReader(archive); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && !isInside(h) {
			return errDamaged
		}
		if err == nil {
			err = restore(dir, h, t)
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, h)
		}
	}
	for _, h := range slices.Backward(dirs) {
		if err := setTime(filepath.Join(dir, h.Name), h.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// isInside reports whether an entry, and the file that it is a hard link to, are below the directory.
func isInside(h *tar.Header) bool {
	h.Name = strings.TrimSuffix(h.Name, "/")
	return filepath.IsLocal(h.Name) && (h.Typeflag != tar.TypeLink || filepath.IsLocal(h.Linkname))
}

// restore creates one file with its attributes.
func restore(dir string, h *tar.Header, content io.Reader) error {
	path := filepath.Join(dir, h.Name)
	if h.Typeflag == tar.TypeLink {
		return os.Link(filepath.Join(dir, h.Linkname), path)
	}
	if err := create(path, h, content); err != nil {
		return &fs.PathError{Op: "create", Path: path, Err: err}
	}
	if err := os.Lchown(path, h.Uid, h.Gid); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Chmod(path, uint32(h.Mode)); err != nil {
			return &fs.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
			return &fs.PathError{Op: "setxattr " + name, Path: path, Err: err}
		}
	}
	return setTime(path, h.ModTime)
}

// create creates one file without attributes.
func create(path string, h *tar.Header, content io.Reader) error {
	device := int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	switch h.Typeflag {
	case tar.TypeDir:
		if h.Name == "." {
			return nil
		}
		return os.Mkdir(path, 0o700)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, path)
	case tar.TypeChar:
		return unix.Mknod(path, unix.S_IFCHR|0o600, device)
	case tar.TypeBlock:
		return unix.Mknod(path, unix.S_IFBLK|0o600, device)
	case tar.TypeFifo:
		kind := uint32(unix.S_IFIFO)
		if h.PAXRecords[paxSocket] != "" {
			kind = unix.S_IFSOCK
		}
		return unix.Mknod(path, kind|0o600, 0)
	case tar.TypeReg:
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		out := &sparseFile{File: f}
		_, err = io.Copy(out, content)
		return errors.Join(err, out.end(), f.Close())
	}
	return errDamaged
}

func setTime(path string, t time.Time) error {
	at, err := unix.TimeToTimespec(t)
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return &fs.PathError{Op: "set the time of", Path: path, Err: err}
	}
	return nil
}

// sparseFile writes a file with holes in place of zeros, so that a file which is mostly holes does not fill the disk.
type sparseFile struct {
	*os.File
	size int64
}

// leastHole is the least number of zeros that becomes a hole.
const leastHole = 4096

func (s *sparseFile) Write(p []byte) (n int, err error) {
	if len(p) >= leastHole && len(bytes.TrimLeft(p, "\x00")) == 0 {
		n = len(p)
		_, err = s.Seek(int64(n), io.SeekCurrent)
	} else {
		n, err = s.File.Write(p)
	}
	s.size += int64(n)
	return n, err
}

// ReadFrom hides that of the file, which would write the zeros.
func (s *sparseFile) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{s}, r)
}

// end gives the file its size, as it may end with a hole.
func (s *sparseFile) end() error { return s.Truncate(s.size) }
