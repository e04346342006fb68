package layers

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PackOptions determines the times in a tar. The zero value keeps those of the files, truncated to seconds.
type PackOptions struct {
	Epoch time.Time // if not zero, the time of all files
	Clamp bool      // replace only times after Epoch
}

func (o PackOptions) time(t time.Time) time.Time {
	if !o.Epoch.IsZero() && (!o.Clamp || t.After(o.Epoch)) {
		t = o.Epoch
	}
	return t.Truncate(time.Second)
}

// PackResult counts the content of a tar.
type PackResult struct {
	Size  int64 // bytes of regular files
	Files int64 // entries
}

// ErrUnrepresentable reports a file in a layer's directory that a layer tar cannot express.
var ErrUnrepresentable = errors.New("cannot be represented in an image layer")

// Pack writes the overlayfs directory dir as a layer tar. Equal trees give equal bytes: entries are sorted and owners
// are numbers. Of the xattrs it keeps security.capability only, as BuildKit does: ACLs and user.* stay in the cache. It
// omits sockets, and dir itself, as other image builders do.
func Pack(ctx context.Context, dir string, w io.Writer, opt PackOptions) (PackResult, error) {
	fd, err := unix.Open(dir, openDirFlags, 0)
	if err != nil {
		return PackResult{}, fmt.Errorf("pack layer: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	p := &packer{ctx: ctx, tw: tar.NewWriter(w), opt: opt, links: map[inodeID]string{}, buf: make([]byte, 256<<10)}
	err = p.children(fd, "")
	unix.Close(fd)
	if err == nil {
		err = p.tw.Close()
	}
	if err != nil {
		return PackResult{}, fmt.Errorf("pack layer: %w", err)
	}
	return p.res, nil
}

type inodeID struct{ dev, ino uint64 }

type packer struct {
	ctx   context.Context
	tw    *tar.Writer
	opt   PackOptions
	links map[inodeID]string // first name of each file with several names
	buf   []byte
	res   PackResult
}

// children writes the files in the open directory fd. prefix is its path with a trailing slash, "" for the root.
func (p *packer) children(fd int, prefix string) error {
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("/%s: %w", prefix, err)
	}
	for _, name := range names {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		if err := p.entry(fd, name, prefix+name); err != nil {
			return err
		}
	}
	return nil
}

func readNames(fd int) ([]string, error) {
	dup, err := unix.Openat(fd, ".", openDirFlags, 0) // a duplicate would share the read offset
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(dup), "directory")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (p *packer) entry(fd int, name, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: "/" + path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		return p.whiteout(path, name)
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return fmt.Errorf("/%s: a name that begins with %s %w", path, whiteoutPrefix, ErrUnrepresentable)
	}
	h := &tar.Header{
		Name: path, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: p.opt.time(time.Unix(st.Mtim.Unix())), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.directory(fd, name, h)
	case unix.S_IFREG:
		return p.file(fd, name, h, &st)
	case unix.S_IFSOCK:
		return nil
	}
	if p.linked(h, &st) {
		return p.header(h)
	}
	if err := special(fd, name, h, &st); err != nil {
		return &os.PathError{Op: "read", Path: "/" + path, Err: err}
	}
	return p.header(h)
}

// special completes the header of a symbolic link, device or FIFO.
func special(fd int, name string, h *tar.Header, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		buf := make([]byte, maxPath+1)
		n, err := unix.Readlinkat(fd, name, buf)
		if err != nil {
			return err
		}
		h.Linkname = string(buf[:n])
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	default:
		return fmt.Errorf("file type %#o %w", st.Mode&unix.S_IFMT, ErrUnrepresentable)
	}
	h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return nil
}

func (p *packer) header(h *tar.Header) error {
	p.res.Files++
	if err := p.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("/%s: %w", h.Name, err)
	}
	return nil
}

// marker writes an empty file with the time 0, whatever the options, as containerd does.
func (p *packer) marker(path string) error {
	return p.header(&tar.Header{Typeflag: tar.TypeReg, Name: path, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

func (p *packer) whiteout(path, name string) error {
	if strings.HasPrefix(name, whiteoutPrefix) {
		return fmt.Errorf("/%s: removal of a name that begins with %s %w", path, whiteoutPrefix, ErrUnrepresentable)
	}
	return p.marker(path[:len(path)-len(name)] + whiteoutPrefix + name)
}

// linked turns h into a hard link, and reports true, if the file was written before under another name.
func (p *packer) linked(h *tar.Header, st *unix.Stat_t) bool {
	if st.Nlink < 2 {
		return false
	}
	id := inodeID{st.Dev, st.Ino}
	first, ok := p.links[id]
	if !ok {
		p.links[id] = h.Name
		return false
	}
	h.Typeflag, h.Linkname = tar.TypeLink, first
	return true
}

func (p *packer) directory(fd int, name string, h *tar.Header) error {
	path := h.Name
	own, err := unix.Openat(fd, name, openDirFlags, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/" + path, Err: err}
	}
	defer unix.Close(own)
	x, err := readXattrs(own)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	h.Typeflag, h.Name, h.PAXRecords = tar.TypeDir, path+"/", x.pax
	if err := p.header(h); err != nil {
		return err
	}
	if x.opaque {
		if err := p.marker(path + "/" + opaqueMarker); err != nil {
			return err
		}
	}
	return p.children(own, path+"/")
}

func (p *packer) file(fd int, name string, h *tar.Header, st *unix.Stat_t) error {
	if p.linked(h, st) {
		return p.header(h)
	}
	own, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/" + h.Name, Err: err}
	}
	f := os.NewFile(uintptr(own), h.Name)
	defer f.Close()
	x, err := readXattrs(own)
	if err != nil {
		return fmt.Errorf("/%s: %w", h.Name, err)
	}
	h.Typeflag, h.Size, h.PAXRecords = tar.TypeReg, st.Size, x.pax
	if err := p.header(h); err != nil {
		return err
	}
	p.res.Size += st.Size
	n, err := io.CopyBuffer(onlyWriter{p.tw}, io.LimitReader(f, st.Size), p.buf)
	if err == nil && n != st.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("/%s: %w", h.Name, err)
	}
	return nil
}

// onlyWriter hides the ReadFrom method, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// Packs reports whether Pack keeps an extended attribute.
func Packs(name string) bool { return name == "security.capability" }

// fileXattrs holds the xattrs of a file that a layer tar keeps.
type fileXattrs struct {
	pax    map[string]string
	opaque bool
}

func readXattrs(fd int) (fileXattrs, error) {
	var x fileXattrs
	list, err := xattrCall(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	if err != nil || len(list) == 0 {
		return x, err
	}
	for raw := range bytes.SplitSeq(bytes.TrimSuffix(list, []byte{0}), []byte{0}) {
		if err := x.add(fd, string(raw)); err != nil {
			return x, err
		}
	}
	return x, nil
}

func (x *fileXattrs) add(fd int, name string) error {
	overlay := isOverlayXattr(name)
	if !overlay && !Packs(name) {
		return nil
	}
	if overlay {
		switch name[strings.LastIndexByte(name, '.')+1:] {
		case "redirect", "metacopy":
			return fmt.Errorf("overlayfs attribute %s %w", name, ErrUnrepresentable)
		case "opaque":
		default:
			return nil
		}
	}
	v, err := xattrCall(func(b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
	if err != nil {
		return err
	}
	if overlay {
		x.opaque = x.opaque || string(v) == "y"
		return nil
	}
	if x.pax == nil {
		x.pax = map[string]string{}
	}
	x.pax[paxXattr+name] = string(v)
	return nil
}

// xattrCall calls get with larger buffers until the value fits. It returns nil if there is none.
func xattrCall(get func([]byte) (int, error)) ([]byte, error) {
	for buf := make([]byte, 256); ; buf = make([]byte, 2*len(buf)) {
		n, err := get(buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case errors.Is(err, unix.ENOTSUP):
			return nil, nil
		case errors.Is(err, unix.ENODATA):
			return nil, nil
		case !errors.Is(err, unix.ERANGE) || len(buf) > 1<<20:
			return nil, os.NewSyscallError("getxattr", err)
		}
	}
}
