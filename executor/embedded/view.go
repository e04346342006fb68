package embedded

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// dirs returns the directories of a chain's layers, top first, as an overlay needs them. Layers that are not on disk
// are unpacked in parallel.
func (b *build) dirs(ctx context.Context, c *chain) ([]string, error) {
	all, err := c.layers(ctx)
	if err != nil {
		return nil, err
	}
	dirs := make([]string, len(all))
	g, ctx := errgroup.WithContext(ctx)
	for i, l := range all {
		if l.id == emptyLayer {
			continue
		}
		if l.base == nil {
			if dir, here := b.dirHere(l.id); here {
				dirs[i] = dir
				continue
			}
			g.Go(func() (err error) {
				dirs[i], err = b.ownDir(ctx, l.id)
				return err
			})
			continue
		}
		g.Go(func() error {
			dir, err := l.base.unpack(ctx)
			dirs[i] = dir
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	dirs = slices.DeleteFunc(dirs, func(d string) bool { return d == "" })
	slices.Reverse(dirs)
	return dirs, nil
}

// ownDir returns the directory of a step's layer, which it imports if necessary; "" for the empty layer.
func (b *build) ownDir(ctx context.Context, id digest.Digest) (string, error) {
	if id == emptyLayer {
		return "", nil
	}
	if dir, ok := b.dirHere(id); ok {
		return dir, nil
	}
	dir, err := b.importLayer(ctx, id)
	if err != nil {
		return "", err
	}
	b.layerDirs.Store(id, dir)
	return dir, nil
}

// dirHere returns the directory of a step's layer that is on disk.
func (b *build) dirHere(id digest.Digest) (string, bool) {
	if dir, ok := b.layerDirs.Load(id); ok {
		return dir.(string), true
	}
	dir, ok := b.store.LayerDir(id)
	if ok {
		b.layerDirs.Store(id, dir)
	}
	return dir, ok
}

// view calls f with the merged files of a chain.
//
// Unpacking on demand. Most lookups need paths and attributes only, and unpacking a base of hundreds of megabytes for
// them would dominate a first build. So a layer that is not unpacked takes part with its path index. If f needs the
// content of a file in it, the read fails with a layerfs.PackedError that names the layer; view unpacks that layer and
// calls f again from the beginning. f must therefore be repeatable: it may only keep the results of its last call. It
// must return the error of a read wrapped with %w: if it dropped a PackedError, nothing would be unpacked and f would
// see no content. Each pass has at least one more layer on disk, so the loop ends. If f opens another view inside, the
// error passes through the inner one unless the layer is its own; the view that has the layer packed handles it.
// Without the check of packed, that view would loop over an error that it cannot fix.
//
// view may be called with the lock of a key or a slot held: it waits only for transfers and for the locks of the layers
// that it unpacks, whose holders wait for no step.
func (b *build) view(ctx context.Context, c *chain, f func(tree.FS) error) error {
	all, err := c.layers(ctx)
	if err != nil {
		return err
	}
	var lent int64
	defer func() { b.imports.giveLists(lent) }()
	for {
		stack := make([]layerfs.Layer, 0, len(all))
		packed := map[digest.Digest][]layer{}
		b.imports.giveLists(lent)
		lent = 0
		for _, l := range all {
			t, memory, ok, err := b.treeLayer(ctx, l)
			lent += memory
			if err != nil {
				return err
			}
			if ok {
				stack = append(stack, t)
			}
			if ok && t.Dir == "" {
				packed[t.ID] = append(packed[t.ID], l)
			}
		}
		files := layerfs.NewView(stack)
		err := errors.Join(f(files), files.Close())
		var need *layerfs.PackedError
		if !errors.As(err, &need) || len(packed[need.LayerID]) == 0 {
			return err
		}
		for _, l := range packed[need.LayerID] {
			if err := b.open(ctx, l); err != nil {
				return err
			}
		}
	}
}

// open unpacks a layer.
func (b *build) open(ctx context.Context, l layer) error {
	var err error
	if l.base == nil {
		_, err = b.ownDir(ctx, l.id)
	} else {
		_, err = l.base.unpack(ctx)
	}
	return err
}

// treeLayer returns a layer for a view; ok is false for the empty layer. An imported layer takes part with its list of
// paths until its content is needed; memory is what the list takes, see imports.giveLists.
func (b *build) treeLayer(ctx context.Context, l layer) (t layerfs.Layer, memory int64, ok bool, err error) {
	if l.id == emptyLayer {
		return t, 0, false, nil
	}
	if l.base == nil {
		if dir, here := b.dirHere(l.id); here {
			return layerfs.Layer{ID: l.id, Dir: dir}, 0, true, nil
		}
		list, err := b.pathsOf(ctx, l.id)
		if errors.Is(err, errLongList) {
			dir, err := b.ownDir(ctx, l.id)
			return layerfs.Layer{ID: l.id, Dir: dir}, 0, true, err
		}
		return layerfs.Layer{ID: l.id, Index: list.index}, list.memory, true, err
	}
	if dir, ok := b.store.LayerDir(l.base.chainID); ok {
		return layerfs.Layer{ID: l.id, Dir: dir}, 0, true, nil
	}
	index, err := l.base.index(ctx)
	if err != nil || index != nil {
		return layerfs.Layer{ID: l.id, Index: index}, 0, true, err
	}
	dir, err := l.base.unpack(ctx)
	return layerfs.Layer{ID: l.id, Dir: dir}, 0, true, err
}

// lowerLayers are the layers below one that is being unpacked. The first lookup waits for them.
type lowerLayers struct {
	ctx   context.Context // of the unpacking, which outlives this value
	top   *baseLayer
	yield func()
	once  sync.Once
	files *layerfs.View
	err   error
}

func (l *lowerLayers) open() (*layerfs.View, error) {
	l.once.Do(func() {
		l.yield()
		var stack []layerfs.Layer
		for at := l.top; at != nil; at = at.below {
			dir, err := at.unpack(l.ctx)
			if err != nil {
				l.err = err
				return
			}
			stack = append(stack, layerfs.Layer{ID: at.DiffID, Dir: dir})
		}
		slices.Reverse(stack)
		l.files = layerfs.NewView(stack)
	})
	return l.files, l.err
}

// close closes the opened layers.
func (l *lowerLayers) close() error {
	if l.files == nil {
		return nil
	}
	return l.files.Close()
}

// Lookup, Xattrs and Open implement the lookups of layers.UnpackOptions.Below.
func (l *lowerLayers) Lookup(path string) (tree.Entry, error) {
	files, err := l.open()
	if err != nil {
		return tree.Entry{}, err
	}
	return files.Lookup(path)
}

func (l *lowerLayers) Xattrs(path string) (map[string][]byte, error) {
	files, err := l.open()
	if err != nil {
		return nil, err
	}
	return files.Xattrs(path)
}

func (l *lowerLayers) Open(path string) (*os.File, error) {
	files, err := l.open()
	if err != nil {
		return nil, err
	}
	return files.Open(path)
}
