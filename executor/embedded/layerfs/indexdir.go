package layerfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// IndexDir returns the path index of a layer's directory; "/" is the directory itself. It omits sockets, as layer tars
// do, and the attributes that keep refuses, and all of "/". It replaces inode numbers by a count, so that equal trees
// have equal indexes.
func IndexDir(ctx context.Context, dir string, keep func(xattr string) bool) (*tree.Index, error) {
	l, err := openDirLayer(dir)
	if err != nil {
		return nil, fmt.Errorf("index layer: %w", err)
	}
	d := &dirIndexer{ctx: ctx, layer: l, keep: keep, inodes: map[uint64]uint64{}}
	root, _, err := l.node("/")
	if err == nil {
		err = d.add(root)
	}
	if err = errors.Join(err, l.root.Close()); err != nil {
		return nil, fmt.Errorf("index layer: %w", err)
	}
	return tree.NewIndex(d.nodes), nil
}

// dirIndexer collects the nodes of a directory.
type dirIndexer struct {
	ctx    context.Context
	layer  *dirLayer
	keep   func(xattr string) bool
	nodes  []tree.Node
	inodes map[uint64]uint64 // numbers of the files with several names, by inode number on disk
}

// add adds a node and everything below it.
func (d *dirIndexer) add(n tree.Node) error {
	e := &n.Entry
	switch {
	case e.Type() == unix.S_IFSOCK:
		return nil
	case e.IsDir():
		e.Inode, e.Nlink = 0, 1
	case e.Nlink > 1:
		if d.inodes[e.Inode] == 0 {
			d.inodes[e.Inode] = uint64(len(d.inodes) + 1)
		}
		e.Inode = d.inodes[e.Inode]
	default:
		e.Inode = 0
	}
	if e.Path != "/" && (e.IsDir() || e.IsRegular()) {
		var err error
		if n.Xattrs, err = d.layer.xattrs(e.Path); err != nil {
			return err
		}
		maps.DeleteFunc(n.Xattrs, func(name string, _ []byte) bool { return !d.keep(name) })
		if len(n.Xattrs) == 0 {
			n.Xattrs = nil
		}
	}
	d.nodes = append(d.nodes, n)
	if !e.IsDir() || n.Whiteout {
		return nil
	}
	if err := d.ctx.Err(); err != nil {
		return err
	}
	children, err := d.layer.list(e.Path)
	if err != nil {
		return err
	}
	slices.SortFunc(children, func(a, b tree.Node) int { return strings.Compare(a.Entry.Path, b.Entry.Path) })
	for _, c := range children {
		if err := d.add(c); err != nil {
			return err
		}
	}
	return nil
}
