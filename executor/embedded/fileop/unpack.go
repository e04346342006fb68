package fileop

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// Bounds of an archive that ADD unpacks.
const (
	maxArchiveFiles = 4 << 20
	maxArchivePath  = 4096
)

// unpack unpacks a match into dest when it is an archive, and says whether it was. What is an archive is told by its
// content: a tar, plain or compressed, with at least one entry.
func (c *copier) unpack(m tree.Match, dest string) (bool, error) {
	if !m.Root.IsRegular() {
		return false, nil
	}
	is, err := isArchive(c.from, m.Root.Path)
	if err != nil || !is {
		return false, err
	}
	root, err := tree.Resolve(c.stage, dest, true)
	if err != nil {
		return false, err
	}
	if err := c.stage.mkdirAll(root, attrs{mode: 0o755, owner: c.look.owner.orRoot(), mtime: c.look.mtime}); err != nil {
		return false, err
	}
	if err := c.extract(m.Root.Path, root); err != nil {
		return false, fmt.Errorf("unpack %s: %w", m.Root.Path, err)
	}
	return true, nil
}

func isArchive(from tree.FS, p string) (bool, error) {
	f, err := from.Open(p)
	if err != nil {
		return false, err
	}
	defer f.Close()
	r, err := decompress(f)
	if err != nil {
		return false, nil
	}
	defer r.Close()
	_, err = tar.NewReader(r).Next()
	return err == nil, nil
}

// extract unpacks the archive at p into the directory root of the stage.
func (c *copier) extract(p, root string) error {
	f, err := c.from.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	whole := io.TeeReader(f, h)
	r, err := decompress(whole)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := (&extractor{c: c, root: root, made: map[string]bool{}}).run(tar.NewReader(r)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, whole); err != nil {
		return err
	}
	local, ok := c.from.(*tree.Local)
	if !ok {
		return nil
	}
	want, err := local.Digest(c.ctx, p)
	if err == nil && want.Encoded() != hex.EncodeToString(h.Sum(nil)) {
		err = local.Changed(p)
	}
	return err
}

// extractor unpacks one archive. It is a tree of its own: links lead nowhere out of root.
type extractor struct {
	c    *copier
	root string
	// made are the paths that came out of the archive: what hides a directory's files spares them.
	made map[string]bool
}

// Lookup shows a path below root.
func (x *extractor) Lookup(p string) (tree.Entry, error) {
	return x.c.stage.Lookup(path.Join(x.root, p))
}

func (x *extractor) run(t *tar.Reader) error {
	for n := 0; ; n++ {
		if x.c.ctx.Err() != nil {
			return context.Cause(x.c.ctx)
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n >= maxArchiveFiles || len(h.Name) > maxArchivePath || len(h.Linkname) > maxArchivePath {
			return fmt.Errorf("entry %d: more than %d files, or a path of more than %d bytes", n+1, maxArchiveFiles, maxArchivePath)
		}
		if err := x.entry(h, t); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// entry makes one entry of the archive. What is in its way goes, but a directory stays where one comes.
func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	kind, ok := kindOf(h.Typeflag)
	if !ok {
		return nil // a global header
	}
	p, err := x.place(h.Name)
	if err != nil {
		return err
	}
	if path.Base(p) == ".wh..wh..opq" && p != x.root {
		return x.hide(path.Dir(p))
	}
	if name, ok := strings.CutPrefix(path.Base(p), ".wh."); ok && p != x.root {
		return x.whiteout(path.Dir(p), name)
	}
	at, err := x.c.stage.Lookup(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	x.made[p] = true
	exists := err == nil
	if kind == unix.S_IFDIR && exists && at.IsDir() {
		if p == x.root {
			return nil
		}
		return x.c.stage.relook(p, x.look(h))
	}
	if p == x.root {
		return errors.New("it is the destination itself, which is a directory")
	}
	if exists {
		if err := x.c.stage.remove(p); err != nil {
			return err
		}
	}
	return x.make(p, kind, h, content)
}

func (x *extractor) make(p string, kind uint32, h *tar.Header, content io.Reader) error {
	s, l := x.c.stage, x.look(h)
	switch {
	case kind == unix.S_IFDIR:
		return s.mkdir(p, l)
	case h.Typeflag == tar.TypeLink:
		return x.link(p, h.Linkname, l)
	case kind == unix.S_IFREG:
		return s.file(p, l, content)
	case kind == unix.S_IFLNK:
		return s.symlink(p, h.Linkname, l)
	}
	return s.node(p, kind, unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)), l)
}

// link makes a hard link to a file below root, which then looks as the link says. One of the parent is copied up first.
func (x *extractor) link(p, target string, l attrs) error {
	first, err := x.place(target)
	if err != nil {
		return err
	}
	e, err := x.c.stage.Lookup(first)
	if err != nil {
		return err
	}
	if e.IsDir() {
		return fmt.Errorf("hard link to the directory %s", target)
	}
	if _, ok := x.c.stage.made[first]; !ok {
		if err := x.copyUp(first, e); err != nil {
			return err
		}
	}
	if err := x.c.stage.link(p, first); err != nil || !e.IsRegular() {
		return err
	}
	return x.c.stage.relookFile(l, first, p)
}

// copyUp brings a file of the parent into the layer as it is.
func (x *extractor) copyUp(p string, e tree.Entry) error {
	parent := x.c.stage.parent.fs
	a, err := (look{mode: -1}).of(parent, e)
	if err != nil {
		return err
	}
	if e.IsLink() {
		return x.c.stage.symlink(p, e.Link, a)
	}
	if !e.IsRegular() {
		return x.c.stage.node(p, e.Type(), e.Rdev, a)
	}
	x.c.stage.parent.note(askWhole, p, "")
	f, err := x.c.stage.create(p, a)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := x.c.filler.fill(f, parent, e); err != nil {
		return err
	}
	return setFd(int(f.Fd()), p, a)
}

// hide deletes what a directory has that did not come out of the archive.
func (x *extractor) hide(dir string) error {
	all, err := x.c.stage.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range all {
		if x.made[e.Path] {
			continue
		}
		if err := x.c.stage.remove(e.Path); err != nil {
			return err
		}
	}
	return nil
}

// whiteout deletes what a marker names.
func (x *extractor) whiteout(dir, name string) error {
	if name == "" || name == "." || name == ".." || strings.HasPrefix(name, ".wh.") {
		return nil // markers of a layer format, which name nothing here
	}
	return x.c.stage.remove(path.Join(dir, name))
}

// place finds where a name of the archive lies: below root, whatever dots and links say. Missing folders are made.
func (x *extractor) place(name string) (string, error) {
	clean := path.Clean("/" + name)
	if clean == "/" {
		return x.root, nil
	}
	dir, err := tree.Resolve(x, path.Dir(clean), true)
	if err != nil {
		return "", err
	}
	dir = path.Join(x.root, dir)
	if err := x.c.stage.mkdirAll(dir, attrs{mode: 0o755, mtime: x.c.look.mtime}); err != nil {
		return "", err
	}
	return path.Join(dir, path.Base(clean)), nil
}

// look is how an entry looks: as the archive says, but for an owner that the action names.
func (x *extractor) look(h *tar.Header) attrs {
	a := attrs{mode: uint32(h.Mode) & 0o7777, owner: owner{uint32(h.Uid), uint32(h.Gid)}, mtime: &h.ModTime}
	if o := x.c.look.owner; o != nil {
		a.owner = *o
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !tree.Kept(name) {
			continue
		}
		if a.xattrs == nil {
			a.xattrs = map[string][]byte{}
		}
		a.xattrs[name] = []byte(value)
	}
	return a
}

// kindOf is the st_mode type of an entry; false for what is no file.
func kindOf(flag byte) (uint32, bool) {
	switch flag {
	case tar.TypeDir:
		return unix.S_IFDIR, true
	case tar.TypeSymlink:
		return unix.S_IFLNK, true
	case tar.TypeChar:
		return unix.S_IFCHR, true
	case tar.TypeBlock:
		return unix.S_IFBLK, true
	case tar.TypeFifo:
		return unix.S_IFIFO, true
	case tar.TypeReg, tar.TypeLink, tar.TypeGNUSparse, '\x00', tar.TypeCont:
		return unix.S_IFREG, true
	}
	return 0, false
}
