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

// Layer is one layer of a View: a directory or, while the layer is packed, its path index. If both are set, Dir is
// used.
type Layer struct {
	ID    digest.Digest // for errors: the layer that a PackedError names
	Dir   string        // the directory in overlayfs's encoding; may be empty if Index is set
	Index *tree.Index
}

// PackedError reports that a file cannot be opened because its layer is not unpacked yet.
type PackedError struct {
	LayerID digest.Digest
	Path    string
}

func (e *PackedError) Error() string {
	return fmt.Sprintf("%s: layer %s is packed", e.Path, e.LayerID)
}

// source is one layer, as read by a View.
type source interface {
	// node returns the node at a path. It reports false if the layer does not have the path.
	node(p string) (n tree.Node, ok bool, err error)
	// list returns the nodes in a directory, including whiteouts.
	list(p string) ([]tree.Node, error)
}

// View is the merged tree of stacked layers, as overlayfs would show it. It reads the layers on demand and caches
// directories, so the layers must not change. It is safe for concurrent use.
//
// For each path the View asks the layers from the top, but only those that have a part in the directory above. A
// whiteout ends the search; an opaque directory hides the directories below it; other directories are merged. The
// invariant: a path exists in the View exactly if the kernel's overlay mount of the same layers has it. Otherwise a
// COPY would see files that a RUN step has removed. A directory that its layer only implies takes its entry from the
// layers below, but Xattrs returns none for it: only unpacking the layer copies them (package layers). A lookup costs a
// few system calls for each layer until the answer is known. TestViewAsOverlay compares random stacks with the kernel.
type View struct {
	layers []Layer // bottom first

	mu      sync.Mutex
	sources []source
	dirs    map[string]*mergedDir
}

// mergedDir is a directory of the view.
type mergedDir struct {
	entry tree.Entry
	// layers are the indexes of the layers that are merged in it, top first.
	layers []int
}

// NewView returns the view of layers, bottom first. Without layers it is an empty tree.
func NewView(layers []Layer) *View {
	return &View{layers: layers, sources: make([]source, len(layers)), dirs: map[string]*mergedDir{}}
}

// Close closes the directories of the layers.
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

// Lookup implements tree.FS.
func (v *View) Lookup(p string) (tree.Entry, error) {
	e, _, err := v.find(tree.Rooted(p))
	return e, err
}

// find returns the entry of a path and the index of its layer, -1 for the root of a view without layers.
func (v *View) find(p string) (tree.Entry, int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p == "/" {
		d, err := v.dir("/")
		if err != nil || len(d.layers) == 0 {
			return tree.Entry{Path: "/", Mode: unix.S_IFDIR | 0o755}, -1, err
		}
		return d.entry, d.layers[0], nil
	}
	above, err := v.dir(path.Dir(p))
	if err != nil {
		return tree.Entry{}, 0, err
	}
	return v.child(above, p)
}

// child looks up the path p in the layers of the directory above it. v.mu must be locked.
func (v *View) child(above *mergedDir, p string) (tree.Entry, int, error) {
	if d, ok := v.dirs[p]; ok {
		return d.entry, d.layers[0], nil
	}
	d := &mergedDir{}
	implied := false
	for _, i := range above.layers {
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
		if n.Whiteout || len(d.layers) > 0 && !n.Entry.IsDir() {
			break
		}
		if len(d.layers) == 0 || implied {
			d.entry, implied = inView(n, i), n.Implied
		}
		d.layers = append(d.layers, i)
		if !n.Entry.IsDir() || n.Opaque {
			break
		}
	}
	if len(d.layers) == 0 {
		return tree.Entry{}, 0, notExist(p)
	}
	if d.entry.IsDir() {
		v.dirs[p] = d
	}
	return d.entry, d.layers[0], nil
}

// inView returns a node's entry in the view. The layer becomes its device, since hard links exist within one layer
// only, and each packed layer numbers its inodes from one.
func inView(n tree.Node, layer int) tree.Entry {
	e := n.Entry
	e.Dev = uint64(layer) + 1
	return e
}

// dir returns a directory of the view. v.mu must be locked.
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
		return nil, notExist(p) // a file or a link
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
		d.layers = append(d.layers, i)
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

// ReadDir implements tree.FS.
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
	for _, i := range d.layers {
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

// fileLayer returns the layer that has the file at a path. The error is a *PackedError if the layer is not unpacked.
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

// Open implements tree.FS. The error is a *PackedError if the file's layer is not unpacked.
func (v *View) Open(p string) (*os.File, error) {
	p = tree.Rooted(p)
	l, err := v.fileLayer(p)
	if err != nil {
		return nil, err
	}
	return tree.OpenFileBeneath(l.root, p)
}

// Xattrs implements tree.FS.
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

// Digest implements tree.FS.
func (v *View) Digest(ctx context.Context, p string) (digest.Digest, error) {
	f, err := v.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return tree.DigestOf(ctx, f, 64<<10)
}

// packed is a layer of which only the path index exists.
type packed struct{ *tree.Index }

func (x packed) node(p string) (tree.Node, bool, error) {
	n, ok := x.At(p)
	return n, ok, nil
}

func (x packed) list(p string) ([]tree.Node, error) { return x.List(p), nil }
