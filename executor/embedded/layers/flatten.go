package layers

import (
	"archive/tar"
	"context"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// FlattenTar writes the merged file system f as one tar without whiteouts, for an output of files. Equal trees give
// equal bytes. Sockets are left out.
func FlattenTar(ctx context.Context, f tree.FS, w io.Writer, opt PackOptions) error {
	fl := &flattener{
		ctx: ctx, fs: f, tw: tar.NewWriter(w), opt: opt, links: map[tree.FileID]string{}, buf: make([]byte, 256<<10),
	}
	if err := fl.children("/"); err != nil {
		return fmt.Errorf("flatten image: %w", err)
	}
	if err := fl.tw.Close(); err != nil {
		return fmt.Errorf("flatten image: %w", err)
	}
	return nil
}

type flattener struct {
	ctx   context.Context
	fs    tree.FS
	tw    *tar.Writer
	opt   PackOptions
	links map[tree.FileID]string // first name of each file with several names
	buf   []byte
}

func (f *flattener) children(dir string) error {
	entries, err := f.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for i := range entries {
		if err := f.ctx.Err(); err != nil {
			return err
		}
		if err := f.entry(&entries[i]); err != nil {
			return fmt.Errorf("%s: %w", entries[i].Path, err)
		}
	}
	return nil
}

func (f *flattener) entry(e *tree.Entry) error {
	h := &tar.Header{
		Name: e.Path[1:], Mode: int64(e.Mode & 0o7777), Uid: int(e.UID), Gid: int(e.GID), Format: tar.FormatPAX,
		ModTime: f.opt.time(e.Mtime), Linkname: e.Link,
		Devmajor: int64(unix.Major(e.Rdev)), Devminor: int64(unix.Minor(e.Rdev)),
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	default:
		return nil // a socket
	}
	if f.linked(h, e) {
		return f.tw.WriteHeader(h)
	}
	if err := f.header(h, e); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return f.children(e.Path)
	case tar.TypeReg:
		return f.content(e)
	}
	return nil
}

// linked turns h into a hard link, and reports true, if the file was written before under another name.
func (f *flattener) linked(h *tar.Header, e *tree.Entry) bool {
	id, ok := e.HardLinked()
	if !ok || h.Typeflag == tar.TypeDir {
		return false
	}
	first, ok := f.links[id]
	if !ok {
		f.links[id] = h.Name
		return false
	}
	h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
	return true
}

func (f *flattener) header(h *tar.Header, e *tree.Entry) error {
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir {
		x, err := f.fs.Xattrs(e.Path)
		if err != nil {
			return err
		}
		for k, v := range x {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[paxXattr+k] = string(v)
		}
	}
	return f.tw.WriteHeader(h)
}

func (f *flattener) content(e *tree.Entry) error {
	if e.Size == 0 {
		return nil
	}
	src, err := f.fs.Open(e.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	n, err := io.CopyBuffer(onlyWriter{f.tw}, io.LimitReader(src, e.Size), f.buf)
	if err == nil && n != e.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}
