package layers

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bounds the size of one layer. The zero value of a field means its default.
type Limits struct {
	Entries  int   // tar entries; default 2,000,000
	Names    int64 // bytes of all paths, link targets and xattrs together; default 512 MiB
	Content  int64 // bytes of all files together, holes counted; default 256 GiB
	Trailing int64 // bytes after the end of the tar; default 64 MiB
}

const maxPath = 4095 // bytes, as in Linux

func (l Limits) withDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 2_000_000
	}
	if l.Names == 0 {
		l.Names = 512 << 20
	}
	if l.Content == 0 {
		l.Content = 256 << 30
	}
	if l.Trailing == 0 {
		l.Trailing = 64 << 20
	}
	return l
}

// inode holds the attributes of one file, shared by all its hard links.
type inode struct {
	mode     uint32 // st_mode, type bits included
	uid, gid uint32
	size     int64
	mtime    time.Time
	link     string // symlink target
	rdev     uint64
	xattrs   map[string][]byte
	nlink    uint32
	number   uint64
	pending  *fileJob // content still being written, or nil
}

func (i *inode) kind() uint32 { return i.mode & unix.S_IFMT }
func (i *inode) isDir() bool  { return i.kind() == unix.S_IFDIR }

// entry is one checked tar header: names are clean, values fit their types.
type entry struct {
	dir, base string // dir is "/" or "/a/b"; base is "" for the root
	hardlink  string // target of a hard link, absolute and clean, or ""
	inode     *inode
	skip      bool // the header describes no file
}

// parseHeader checks one header. It clamps names above the root to the root, as Docker and containerd do.
func parseHeader(h *tar.Header) (entry, error) {
	var e entry
	if len(h.Name) > maxPath || len(h.Linkname) > maxPath {
		return e, fmt.Errorf("path of more than %d bytes", maxPath)
	}
	if strings.IndexByte(h.Name, 0) >= 0 || strings.IndexByte(h.Linkname, 0) >= 0 {
		return e, errors.New("NUL byte in a path")
	}
	full := path.Clean("/" + h.Name)
	e.dir, e.base = path.Split(full)
	e.dir = path.Clean(e.dir)
	if err := checkName(e.base); err != nil {
		return e, err
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return entry{skip: true}, nil
	case tar.TypeLink:
		e.hardlink = path.Clean("/" + h.Linkname)
		if e.hardlink == "/" || e.base == "" {
			return e, errors.New("hard link to or from the root directory")
		}
	}
	ino, err := parseInode(h)
	if err != nil {
		return e, err
	}
	if e.base == "" && !ino.isDir() {
		return e, errors.New("the root is not a directory")
	}
	e.inode = ino
	return e, nil
}

// checkName rejects names that are too long and whiteouts of "", "." and "..".
func checkName(base string) error {
	if len(base) > 255 {
		return errors.New("file name of more than 255 bytes")
	}
	switch base {
	case whiteoutPrefix, whiteoutPrefix + ".", whiteoutPrefix + "..":
		return fmt.Errorf("invalid whiteout name %q", base)
	}
	return nil
}

func parseInode(h *tar.Header) (*inode, error) {
	kind, err := kindOf(h.Typeflag)
	if err != nil {
		return nil, err
	}
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d out of range", h.Uid, h.Gid)
	}
	if h.Size < 0 {
		return nil, errors.New("negative size")
	}
	ino := &inode{
		mode: kind | uint32(h.Mode)&0o7777, uid: uint32(h.Uid), gid: uint32(h.Gid), mtime: boundTime(h.ModTime),
		xattrs: keptXattrs(h.PAXRecords),
	}
	switch kind {
	case unix.S_IFREG:
		ino.size = h.Size
	case unix.S_IFLNK:
		if h.Linkname == "" {
			return nil, errors.New("symbolic link without a target")
		}
		ino.link, ino.mode = h.Linkname, kind|0o777
	case unix.S_IFCHR, unix.S_IFBLK:
		if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
			return nil, errors.New("device number out of range")
		}
		ino.rdev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	}
	return ino, nil
}

func kindOf(flag byte) (uint32, error) {
	switch flag {
	case tar.TypeReg, 0, tar.TypeGNUSparse, tar.TypeCont, tar.TypeLink:
		return unix.S_IFREG, nil
	case tar.TypeDir:
		return unix.S_IFDIR, nil
	case tar.TypeSymlink:
		return unix.S_IFLNK, nil
	case tar.TypeChar:
		return unix.S_IFCHR, nil
	case tar.TypeBlock:
		return unix.S_IFBLK, nil
	case tar.TypeFifo:
		return unix.S_IFIFO, nil
	case tar.TypeXGlobalHeader:
		return 0, nil
	}
	return 0, fmt.Errorf("unknown entry type %q", flag)
}

// keptXattrs returns the attributes in the PAX records, except those of overlayfs: with them a layer could redirect or
// hide paths. Names over 255 bytes and values over 64 KiB, which Linux does not support, are dropped too.
func keptXattrs(records map[string]string) map[string][]byte {
	var kept map[string][]byte
	for k, v := range records {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok || name == "" || len(name) > 255 || len(v) > 64<<10 || isOverlayXattr(name) {
			continue
		}
		if kept == nil {
			kept = map[string][]byte{}
		}
		kept[name] = []byte(v)
	}
	return kept
}

func isOverlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// boundTime replaces a time that file systems with 34 bits of seconds cannot hold by 1970, and the zero time too.
func boundTime(t time.Time) time.Time {
	if s := t.Unix(); s < -1<<31 || s >= 1<<33 || t.IsZero() {
		return time.Unix(0, 0)
	}
	return t
}
