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

// dirs are the directories of a chain's layers, top first, as an overlay takes them. Base layers are unpacked side by
// side where they are not on disk.
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

// ownDir is the directory of a layer of our own; "" for the empty layer.
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

// dirHere is the directory of a layer of our own that is on the disk.
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

// view calls f with the merged files of a chain. Base layers that are not unpacked take part with their index; when f
// needs the content of one it is unpacked, and f is called again. Where f opens another view inside, the one that had
// the layer packed is opened again: each pass has at least one layer more on disk.
func (b *build) view(ctx context.Context, c *chain, f func(tree.FS) error) error {
	all, err := c.layers(ctx)
	if err != nil {
		return err
	}
	for {
		stack := make([]layerfs.Layer, 0, len(all))
		packed := map[digest.Digest][]layer{}
		for _, l := range all {
			t, ok, err := b.treeLayer(ctx, l)
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

// open gets the directory form of a layer onto the disk.
func (b *build) open(ctx context.Context, l layer) error {
	var err error
	if l.base == nil {
		_, err = b.ownDir(ctx, l.id)
	} else {
		_, err = l.base.unpack(ctx)
	}
	return err
}

// treeLayer is a layer as a view takes it; ok is false for the empty layer. One of a cache from elsewhere is known by its
// paths until its content is asked for.
func (b *build) treeLayer(ctx context.Context, l layer) (t layerfs.Layer, ok bool, err error) {
	if l.id == emptyLayer {
		return t, false, nil
	}
	if l.base == nil {
		if dir, here := b.dirHere(l.id); here {
			return layerfs.Layer{ID: l.id, Dir: dir}, true, nil
		}
		index, err := b.pathsOf(ctx, l.id)
		return layerfs.Layer{ID: l.id, Index: index}, true, err
	}
	if dir, ok := b.store.LayerDir(l.base.chainID); ok {
		return layerfs.Layer{ID: l.id, Dir: dir}, true, nil
	}
	index, err := l.base.index(ctx)
	if err != nil || index != nil {
		return layerfs.Layer{ID: l.id, Index: index}, true, err
	}
	dir, err := l.base.unpack(ctx)
	return layerfs.Layer{ID: l.id, Dir: dir}, true, err
}

// lowerLayers are the layers below one that is being unpacked. They are waited for when the first question is asked.
type lowerLayers struct {
	ctx   context.Context // of the unpacking, which ends before whoever holds this
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

// close closes what was opened.
func (l *lowerLayers) close() error {
	if l.files == nil {
		return nil
	}
	return l.files.Close()
}

// Lookup, Xattrs and Open answer from the unpacked layers below.
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
