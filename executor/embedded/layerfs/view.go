package layerfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// Layer is one layer of a View: its directory form, or its path index while it is packed.
type Layer struct {
	ID    digest.Digest
	Dir   string // directory form with overlayfs's conventions; may be empty when Index is set
	Index *tree.Index
}

// PackedError reports that a file cannot be opened because its layer has no directory form yet.
type PackedError struct {
	LayerID digest.Digest
	Path    string
}

func (e *PackedError) Error() string {
	return fmt.Sprintf("%s: layer %s is packed", e.Path, e.LayerID)
}

// source is a layer as a View asks it.
type source interface {
	// node is what the layer has at a path; ok is false when it says nothing about it.
	node(p string) (n tree.Node, ok bool, err error)
	// list is what the layer has in a directory, whiteouts included.
	list(p string) ([]tree.Node, error)
}

// View is the merged tree of stacked layers, as overlayfs would show it. It reads layers only when asked and keeps
// what it has learnt of directories, so the layers must not change. It may be used by several goroutines.
type View struct {
	layers []Layer // bottom first

	mu      sync.Mutex
	sources []source
	dirs    map[string]*mergedDir
}

// mergedDir is a directory of the view.
type mergedDir struct {
	entry tree.Entry
	// at are the layers that have a part in it, top first.
	at []int
}

// NewView stacks layers, bottom first. No layers make an empty tree.
func NewView(layers []Layer) *View {
	return &View{layers: layers, sources: make([]source, len(layers)), dirs: map[string]*mergedDir{}}
}

// Close closes what the view has open.
func (v *View) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for i, s := range v.sources {
		if d, ok := s.(*dirLayer); ok {
			errs = append(errs, d.root.Close())
		}
		v.sources[i] = nil
	}
	return errors.Join(errs...)
}

func (v *View) source(i int) (source, error) {
	if v.sources[i] != nil {
		return v.sources[i], nil
	}
	l := v.layers[i]
	if l.Dir == "" {
		v.sources[i] = packed{l.Index}
		return v.sources[i], nil
	}
	d, err := openDirLayer(l.Dir)
	if err != nil {
		return nil, fmt.Errorf("open layer %s: %w", l.ID, err)
	}
	v.sources[i] = d
	return d, nil
}

func notExist(p string) error { return &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist} }

// Lookup implements FS.
func (v *View) Lookup(p string) (tree.Entry, error) {
	e, _, err := v.find(tree.Rooted(p))
	return e, err
}

// find returns the entry of a path and the layer that has it, -1 for the root of no layers.
func (v *View) find(p string) (tree.Entry, int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p == "/" {
		d, err := v.dir("/")
		if err != nil || len(d.at) == 0 {
			return tree.Entry{Path: "/", Mode: unix.S_IFDIR | 0o755}, -1, err
		}
		return d.entry, d.at[0], nil
	}
	above, err := v.dir(path.Dir(p))
	if err != nil {
		return tree.Entry{}, 0, err
	}
	return v.child(above, p)
}

// child looks one path up in the layers of the directory above it.
func (v *View) child(above *mergedDir, p string) (tree.Entry, int, error) {
	if d, ok := v.dirs[p]; ok {
		return d.entry, d.at[0], nil
	}
	d := &mergedDir{}
	implied := false
	for _, i := range above.at {
		s, err := v.source(i)
		if err != nil {
			return tree.Entry{}, 0, err
		}
		n, ok, err := s.node(p)
		if err != nil {
			return tree.Entry{}, 0, err
		}
		if !ok {
			continue
		}
		if n.Whiteout || len(d.at) > 0 && !n.Entry.IsDir() {
			break
		}
		if len(d.at) == 0 || implied {
			d.entry, implied = inView(n, i), n.Implied
		}
		d.at = append(d.at, i)
		if !n.Entry.IsDir() || n.Opaque {
			break
		}
	}
	if len(d.at) == 0 {
		return tree.Entry{}, 0, notExist(p)
	}
	if d.entry.IsDir() {
		v.dirs[p] = d
	}
	return d.entry, d.at[0], nil
}

// inView is a node's entry in the view. Hard links are of one layer, and layers that are packed count their inodes
// each by itself.
func inView(n tree.Node, layer int) tree.Entry {
	e := n.Entry
	e.Dev = uint64(layer) + 1
	return e
}

// dir returns a directory of the view.
func (v *View) dir(p string) (*mergedDir, error) {
	if d, ok := v.dirs[p]; ok {
		return d, nil
	}
	if p == "/" {
		return v.rootDir()
	}
	above, err := v.dir(path.Dir(p))
	if err != nil {
		return nil, err
	}
	if _, _, err := v.child(above, p); err != nil {
		return nil, err
	}
	d, ok := v.dirs[p]
	if !ok {
		return nil, notExist(p) // a file or a link: there is nothing below it
	}
	return d, nil
}

func (v *View) rootDir() (*mergedDir, error) {
	d := &mergedDir{entry: tree.Entry{Path: "/", Mode: unix.S_IFDIR | 0o755}}
	implied := true
	for i := len(v.layers) - 1; i >= 0; i-- {
		s, err := v.source(i)
		if err != nil {
			return nil, err
		}
		n, ok, err := s.node("/")
		if err != nil {
			return nil, err
		}
		d.at = append(d.at, i)
		if ok && implied {
			d.entry, implied = n.Entry, n.Implied
		}
		if n.Opaque {
			break
		}
	}
	v.dirs["/"] = d
	return d, nil
}

// ReadDir implements FS.
func (v *View) ReadDir(p string) ([]tree.Entry, error) {
	p = tree.Rooted(p)
	v.mu.Lock()
	defer v.mu.Unlock()
	d, err := v.dir(p)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var all []tree.Entry
	for _, i := range d.at {
		s, err := v.source(i)
		if err != nil {
			return nil, err
		}
		nodes, err := s.list(p)
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			if seen[n.Entry.Path] {
				continue
			}
			seen[n.Entry.Path] = true
			if n.Whiteout {
				continue
			}
			e := inView(n, i)
			if n.Implied {
				if e, _, err = v.child(d, e.Path); err != nil {
					return nil, err
				}
			}
			all = append(all, e)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Path < all[j].Path })
	return all, nil
}

// fileLayer finds the layer that has a path, in directory form.
func (v *View) fileLayer(p string) (*dirLayer, error) {
	_, i, err := v.find(p)
	if err != nil {
		return nil, err
	}
	if i < 0 {
		return nil, notExist(p)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s, err := v.source(i)
	if err != nil {
		return nil, err
	}
	d, ok := s.(*dirLayer)
	if !ok {
		return nil, &PackedError{v.layers[i].ID, p}
	}
	return d, nil
}

// Open implements FS. The error is a *PackedError when the file's layer is packed.
func (v *View) Open(p string) (*os.File, error) {
	p = tree.Rooted(p)
	l, err := v.fileLayer(p)
	if err != nil {
		return nil, err
	}
	return tree.OpenFileBeneath(l.root, p)
}

// Xattrs implements FS.
func (v *View) Xattrs(p string) (map[string][]byte, error) {
	p = tree.Rooted(p)
	_, i, err := v.find(p)
	if err != nil || i < 0 {
		return nil, err
	}
	v.mu.Lock()
	s, err := v.source(i)
	v.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if d, ok := s.(*dirLayer); ok {
		return d.xattrs(p)
	}
	n, _ := v.layers[i].Index.At(p)
	return keptOf(n.Xattrs), nil
}

func keptOf(all map[string][]byte) map[string][]byte {
	kept := map[string][]byte{}
	for name, value := range all {
		if tree.Kept(name) {
			kept[name] = value
		}
	}
	return kept
}

// Digest implements FS.
func (v *View) Digest(ctx context.Context, p string) (digest.Digest, error) {
	f, err := v.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return tree.DigestOf(ctx, f, 64<<10)
}

// packed is a layer that is known by its path index only.
type packed struct{ *tree.Index }

func (x packed) node(p string) (tree.Node, bool, error) {
	n, ok := x.At(p)
	return n, ok, nil
}

func (x packed) list(p string) ([]tree.Node, error) { return x.List(p), nil }
