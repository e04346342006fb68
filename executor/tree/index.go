package tree

import (
	"path"
	"sort"
)

// Node is an entry of one layer with overlayfs's marks.
type Node struct {
	Entry    Entry
	Xattrs   map[string][]byte
	Whiteout bool // the path of the layers below is gone; all else of Entry is zero
	Opaque   bool // a directory that hides the one below
	Implied  bool // the layer does not list this directory; its attributes are those of the layers below
}

// Index lists the paths of one layer with their attributes, so that lookups need no unpacking. It is built from tar
// headers or from a directory.
type Index struct {
	nodes    map[string]Node
	children map[string][]string // names
}

// NewIndex returns the index of a layer. Of several nodes with one path the last wins. Parent directories that are not
// listed are implied.
func NewIndex(nodes []Node) *Index {
	x := &Index{nodes: make(map[string]Node, len(nodes)), children: map[string][]string{}}
	for _, n := range nodes {
		x.put(n)
	}
	for _, names := range x.children {
		sort.Strings(names)
	}
	return x
}

// Len returns the number of paths.
func (x *Index) Len() int { return len(x.nodes) }

func (x *Index) put(n Node) {
	p := n.Entry.Path
	if _, ok := x.nodes[p]; !ok && p != "/" {
		dir := path.Dir(p)
		if _, ok := x.nodes[dir]; !ok {
			x.put(Node{Entry: Entry{Path: dir, Mode: ModeDir | 0o755}, Implied: true})
		}
		x.children[dir] = append(x.children[dir], path.Base(p))
	}
	x.nodes[p] = n
}

// At returns the layer's node at a path; ok is false if the layer does not have the path.
func (x *Index) At(p string) (n Node, ok bool) {
	n, ok = x.nodes[p]
	return n, ok
}

// List returns the layer's nodes in a directory, including whiteouts, sorted by name.
func (x *Index) List(p string) []Node {
	names := x.children[p]
	all := make([]Node, len(names))
	for i, name := range names {
		all[i] = x.nodes[path.Join(p, name)]
	}
	return all
}
