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

// Limits of an archive that ADD unpacks.
const (
	maxArchiveFiles = 4 << 20
	maxArchivePath  = 4096
)

// unpack unpacks a match into dest if it is an archive, and reports whether it was. Like Docker, it looks at the
// content, not the name: an archive is a tar, plain or compressed, with at least one entry.
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
	dir := attrs{mode: 0o755, owner: c.overrides.owner, mtime: c.overrides.mtime, inherit: true}
	if err := c.stage.mkdirAll(root, dir); err != nil {
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
	r, err := Decompress(f)
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
	r, err := Decompress(whole)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := (&extractor{c: c, root: root, extracted: map[string]bool{}}).run(tar.NewReader(r)); err != nil {
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
		err = local.Invalidate(p)
	}
	return err
}

// extractor unpacks one archive below the directory root of the stage.
//
// An archive is hostile: it may contain a link out of the destination and then a file "through" that link, or a hard
// link to a file of the host. So the extractor is a tree.Lookuper whose root is the destination. locate resolves each
// name, and each target of a hard link, in this tree: ".." and absolute links end at the destination. The invariant:
// every path that the extractor passes to the stage lies below root and has no links in it. Otherwise an ADD could
// replace files anywhere in the image. The last component is not followed, so an entry replaces a link instead of
// writing through it. TestUnpack has dots, links and hard links that lead out.
type extractor struct {
	c    *copier
	root string
	// extracted has the paths of the archive. An opaque marker does not remove them.
	extracted map[string]bool
}

// Lookup implements tree.Lookuper for the tree below root.
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
			return fmt.Errorf("entry %d: more than %d files, or a path of more than %d bytes",
				n+1, maxArchiveFiles, maxArchivePath)
		}
		if err := x.entry(h, t); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// entry extracts one entry. It replaces what exists at its path, except that a directory keeps its content when the
// entry is a directory.
func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	kind, ok := kindOf(h.Typeflag)
	if !ok || path.Clean(h.Name) == "." {
		return nil // a global header, or the destination itself: "", "." or "./", which keeps its attributes
	}
	p, err := x.locate(h.Name)
	if err != nil {
		return err
	}
	if path.Base(p) == ".wh..wh..opq" && p != x.root {
		return x.removeOthers(path.Dir(p))
	}
	if name, ok := strings.CutPrefix(path.Base(p), ".wh."); ok && p != x.root {
		return x.whiteout(path.Dir(p), name)
	}
	at, err := x.c.stage.Lookup(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	x.extracted[p] = true
	exists := err == nil
	if kind == unix.S_IFDIR && exists && at.IsDir() {
		return x.c.stage.setDirAttrs(p, x.attrs(h))
	}
	if p == x.root {
		return errors.New("cannot replace the destination directory")
	}
	if exists {
		if err := x.c.stage.remove(p); err != nil {
			return err
		}
	}
	return x.create(p, kind, h, content)
}

func (x *extractor) create(p string, kind uint32, h *tar.Header, content io.Reader) error {
	s, l := x.c.stage, x.attrs(h)
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

// link creates a hard link to a file below root and gives the file the attributes of the entry. A file of the parent is
// copied up first.
func (x *extractor) link(p, target string, l attrs) error {
	first, err := x.locate(target)
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
	if _, ok := x.c.stage.upper[first]; !ok {
		if err := x.copyUp(first, e); err != nil {
			return err
		}
	}
	if err := x.c.stage.link(p, first); err != nil || !e.IsRegular() {
		return err
	}
	return x.c.stage.setFileAttrs(l, first, p)
}

// copyUp copies a file of the parent into the layer with its attributes.
func (x *extractor) copyUp(p string, e tree.Entry) error {
	parent := x.c.stage.parent.fs
	x.c.stage.parent.note(kindCopyUp, p, "")
	a, err := (overrides{mode: -1}).attrsOf(parent, e)
	if err != nil {
		return err
	}
	if e.IsLink() {
		return x.c.stage.symlink(p, e.Link, a)
	}
	if !e.IsRegular() {
		return x.c.stage.node(p, e.Type(), e.Rdev, a)
	}
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

// removeOthers removes the files in a directory that are not from the archive.
func (x *extractor) removeOthers(dir string) error {
	all, err := x.c.stage.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range all {
		if x.extracted[e.Path] {
			continue
		}
		if err := x.c.stage.remove(e.Path); err != nil {
			return err
		}
	}
	return nil
}

// whiteout removes the file that a marker names.
func (x *extractor) whiteout(dir, name string) error {
	if name == "" || name == "." || name == ".." || strings.HasPrefix(name, ".wh.") {
		return nil // other bookkeeping of a layer, which names no file
	}
	return x.c.stage.remove(path.Join(dir, name))
}

// locate returns the path of an archive name. It creates missing directories above it.
func (x *extractor) locate(name string) (string, error) {
	clean := path.Clean("/" + name)
	if clean == "/" {
		return x.root, nil
	}
	dir, err := tree.Resolve(x, path.Dir(clean), true)
	if err != nil {
		return "", err
	}
	dir = path.Join(x.root, dir)
	above := attrs{mode: 0o755, owner: &owner{}, mtime: x.c.overrides.mtime, inherit: true, setMode: true}
	if err := x.c.stage.mkdirAll(dir, above); err != nil {
		return "", err
	}
	return path.Join(dir, path.Base(clean)), nil
}

// attrs returns the attributes of an entry: those in the archive, with the owner of the action if it has one.
func (x *extractor) attrs(h *tar.Header) attrs {
	a := attrs{mode: uint32(h.Mode) & 0o7777, owner: x.c.overrides.owner, mtime: &h.ModTime}
	if a.owner == nil {
		a.owner = &owner{uint32(h.Uid), uint32(h.Gid)}
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

// kindOf returns the st_mode type of an entry. It reports false for an entry that is not a file.
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
