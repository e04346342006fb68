package layers

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// target receives the entries of a tar: a directory on disk, or discard when the caller needs only the index. Before
// each call the parent directory exists, and whatever the path held has been removed.
type target interface {
	mkdir(n *node) error
	// mkfile reads n.ino.size bytes from r before it returns. It may write them later.
	mkfile(n *node, r io.Reader) error
	mklink(n, old *node) error // makes n a hard link to old
	mkspecial(n *node) error   // makes a symbolic link, device, FIFO or whiteout
	remove(n *node) error      // removes n and everything below it
	supports(i *inode) bool    // reports whether the target can hold this kind of file; others are skipped
	// copyUp copies the file at n's path in the layers below into n, so that a hard link can point to it.
	copyUp(n *node) error
}

// applier applies the entries of one tar to a target, in order.
//
// An image tar is hostile, and links are how it would escape. A symbolic link could lead a later entry out of the
// layer, and a hard link could give the layer a name for a file of the host. So the applier keeps every path of the
// layer in memory, as the tree below root, and resolves all names there. The invariant: this tree mirrors the target
// exactly, and the target only ever sees a single name in a directory that this layer created. No system call follows
// a link. A hard link refers to a node of this tree, or to a file that copyUp has brought in from the layers below;
// it never refers to a path on disk. The cost is the memory for all names of one layer, bounded by Limits.
// TestUnpackHostile and FuzzUnpack check that nothing outside of the directory changes.
type applier struct {
	root    *node
	to      target
	limits  Limits
	inodes  uint64
	entries int
	names   int64
	content int64 // bytes of regular files
	below   bool  // a hard link refers to a file of the layers below
}

func newApplier(to target, l Limits) *applier {
	a := &applier{to: to, limits: l.withDefaults()}
	a.root = &node{implied: true, ino: a.impliedDir()}
	return a
}

func (a *applier) impliedDir() *inode {
	return &inode{mode: unix.S_IFDIR | 0o755, mtime: time.Unix(0, 0), nlink: 1}
}

// run applies all entries of the tar r.
func (a *applier) run(ctx context.Context, r io.Reader) error { return each(ctx, r, a.add) }

// measure checks all entries of the tar r and counts them, without applying them.
func (a *applier) measure(ctx context.Context, r io.Reader) error {
	return each(ctx, r, func(h *tar.Header, _ io.Reader) error {
		_, err := a.admit(h)
		return err
	})
}

// each calls use with each entry of the tar r.
func each(ctx context.Context, r io.Reader, use func(*tar.Header, io.Reader) error) error {
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := use(h, tr); err != nil {
			return fmt.Errorf("entry %q: %w", clip(h.Name), err)
		}
	}
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// admit checks an entry and counts it towards the limits.
func (a *applier) admit(h *tar.Header) (entry, error) {
	if a.entries++; a.entries > a.limits.Entries {
		return entry{}, fmt.Errorf("layer has more than %d entries", a.limits.Entries)
	}
	e, err := parseHeader(h)
	if err != nil || e.skip {
		return e, err
	}
	return e, a.count(e, h)
}

func (a *applier) add(h *tar.Header, r io.Reader) error {
	e, err := a.admit(h)
	if err != nil || e.skip {
		return err
	}
	if e.base == "" {
		return a.describeRoot(e.inode)
	}
	if strings.HasPrefix(e.base, metaPrefix) && e.base != opaqueMarker {
		return nil
	}
	dir, err := a.parents(e.dir)
	if err != nil {
		return err
	}
	if name, ok := strings.CutPrefix(e.base, whiteoutPrefix); ok {
		if e.base == opaqueMarker {
			dir.opaque = true
			return nil
		}
		return a.whiteout(dir, name)
	}
	if e.inode.kind() == unix.S_IFCHR && e.inode.rdev == 0 {
		return a.whiteout(dir, e.base) // overlayfs takes a 0:0 device for a whiteout
	}
	if e.hardlink != "" {
		return a.link(dir, e, h)
	}
	return a.put(dir, e, r)
}

func (a *applier) count(e entry, h *tar.Header) error {
	a.names += int64(len(h.Name) + len(h.Linkname))
	for k, v := range e.inode.xattrs {
		a.names += int64(len(k) + len(v))
	}
	if a.names > a.limits.Names {
		return fmt.Errorf("layer metadata (paths, xattrs) exceeds %d bytes", a.limits.Names)
	}
	if e.inode.kind() == unix.S_IFREG && e.hardlink == "" {
		if a.content += e.inode.size; a.content > a.limits.Content || a.content < 0 {
			return fmt.Errorf("files of the layer exceed %d bytes", a.limits.Content)
		}
	}
	return nil
}

func (a *applier) describeRoot(ino *inode) error {
	a.number(ino)
	a.root.ino, a.root.implied = ino, false
	return nil
}

func (a *applier) number(ino *inode) {
	a.inodes++
	ino.number, ino.nlink = a.inodes, 1
}

// parents returns the directory p. It creates p and the directories above it if they are missing.
func (a *applier) parents(p string) (*node, error) {
	dir, missing, err := a.root.resolve(p)
	if err != nil {
		return nil, err
	}
	for _, name := range missing {
		n := &node{name: name, implied: true, ino: a.impliedDir()}
		a.number(n.ino)
		if err := a.replace(dir, n); err != nil {
			return nil, err
		}
		if err := a.to.mkdir(n); err != nil {
			return nil, err
		}
		dir = n
	}
	return dir, nil
}

// replace adds n to dir and removes what that name held before. A directory that replaces a whiteout or an opaque
// directory becomes opaque, so that it keeps hiding the lower path.
func (a *applier) replace(dir, n *node) error {
	old := dir.children[n.name]
	if old != nil {
		if n.isDir() {
			n.opaque = n.opaque || old.whiteout || old.opaque
		}
		if err := a.to.remove(old); err != nil {
			return err
		}
		forget(old)
	} else if dir.length+1+len(n.name) > maxPath {
		return errTooLong
	}
	dir.attach(n)
	return nil
}

func forget(n *node) {
	if n.ino != nil && n.ino.nlink > 0 {
		n.ino.nlink--
	}
	for _, c := range n.children {
		forget(c)
	}
}

// whiteout hides the lower layers' file at that name. As OCI requires, a file of this layer at that name stays; a
// directory of this layer becomes opaque.
func (a *applier) whiteout(dir *node, name string) error {
	if old := dir.children[name]; old != nil {
		if old.isDir() {
			old.opaque = true
		}
		return nil
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return errors.New("whiteout removes a whiteout marker")
	}
	n := &node{name: name, whiteout: true}
	if err := a.replace(dir, n); err != nil {
		return err
	}
	return a.to.mkspecial(n)
}

func (a *applier) put(dir *node, e entry, r io.Reader) error {
	if !a.to.supports(e.inode) {
		return nil
	}
	a.number(e.inode)
	old := dir.children[e.base]
	if e.inode.isDir() && old != nil && old.isDir() {
		old.ino, old.implied = e.inode, false // the directory keeps its children
		return nil
	}
	n := &node{name: e.base, ino: e.inode}
	if err := a.replace(dir, n); err != nil {
		return err
	}
	switch e.inode.kind() {
	case unix.S_IFDIR:
		return a.to.mkdir(n)
	case unix.S_IFREG:
		return a.to.mkfile(n, r)
	}
	return a.to.mkspecial(n)
}

// link creates a hard link. If this layer lacks the target, it is first copied up from the layers below.
func (a *applier) link(dir *node, e entry, h *tar.Header) error {
	old, err := a.linkTarget(e.hardlink)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", clip(h.Linkname), err)
	}
	if dir.children[e.base] == old {
		return nil
	}
	n := &node{name: e.base, ino: old.ino}
	if dir.children[e.base] != nil && dir.children[e.base].contains(old) {
		return errors.New("hard link would replace a directory that contains its target")
	}
	if err := a.replace(dir, n); err != nil {
		return err
	}
	old.ino.nlink++
	return a.to.mklink(n, old)
}

// contains reports whether other is n or lies below n.
func (n *node) contains(other *node) bool {
	for ; other != nil; other = other.parent {
		if other == n {
			return true
		}
	}
	return false
}

// linkTarget returns the file at p for a hard link. A directory, and a path that this layer hides, is an error.
func (a *applier) linkTarget(p string) (*node, error) {
	up, base := path.Split(p)
	dir, missing, err := a.root.resolve(up)
	if err != nil {
		return nil, err
	}
	if len(missing) == 0 {
		if n := dir.children[base]; n != nil {
			if n.whiteout || n.isDir() {
				return nil, errors.New("target is a directory or was removed by this layer")
			}
			return n, nil
		}
	}
	hidden := dir.hidden()
	if len(missing) > 0 {
		c := dir.children[missing[0]]
		hidden = hidden || c != nil
	}
	if hidden {
		return nil, errors.New("no such file")
	}
	if dir, err = a.parents(up); err != nil {
		return nil, err
	}
	n := &node{name: base, ino: &inode{mode: unix.S_IFREG, mtime: time.Unix(0, 0)}}
	a.number(n.ino)
	if err := a.replace(dir, n); err != nil {
		return nil, err
	}
	a.below = true
	if err := a.to.copyUp(n); err != nil {
		return nil, err
	}
	return n, nil
}
