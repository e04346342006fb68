package remotecache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Dir is a cache in a directory: an index, and packs of blobs. It has at most maxFiles files with fixed names. A
// layer is always in the same pack, so a new layer changes three files: that pack, the pack of path indexes, and the
// index. An unchanged cache changes none. Other files in the directory are left alone.
type Dir struct {
	Path string

	packs map[string]*pack // opened by Index, by name
}

// The files of a cache in a directory.
const (
	fileIndex  = "index.zst"
	filePaths  = "paths.pack"
	fileMounts = "mounts.pack"
	layerPacks = 16
	prefixTemp = ".bake-cache-"
	maxFiles   = layerPacks + 3
)

// maxWriters bounds the packs that are written concurrently.
const maxWriters = 4

// String implements Source and Destination.
func (d *Dir) String() string { return d.Path }

// packOf returns the name of the pack of a layer.
func packOf(b digest.Digest) string { return "layers-" + b.Encoded()[:1] + ".pack" }

// packNames returns the names of all packs.
func packNames() []string {
	names := []string{filePaths, fileMounts}
	for i := range layerPacks {
		names = append(names, fmt.Sprintf("layers-%x.pack", i))
	}
	return names
}

// Index implements Source. It keeps the packs open, so later reads see the same cache even if the directory is
// written meanwhile. A pack that cannot be opened is left out: its blobs are a MissingError when they are opened.
func (d *Dir) Index(ctx context.Context, scratch func() (*os.File, error)) (*Catalog, error) {
	root, unlock, err := d.lock(unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	f, err := openFile(root, fileIndex, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := root.Lstat("index.json"); err == nil {
			return nil, errors.New("a BuildKit cache, which only BuildKit reads")
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	x, err := NewCatalog(ctxReader{ctx, f}, scratch)
	if err != nil {
		return nil, err
	}
	d.packs = map[string]*pack{}
	left := maxPacked
	for _, name := range packNames() {
		p, err := openPack(root, name, left)
		if err == nil {
			d.packs[name] = p
			left -= len(p.table)
		}
	}
	return x, nil
}

// ctxReader returns an error from Read once its context is done: an index may have gigabytes of text.
type ctxReader struct {
	ctx context.Context
	io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.Reader.Read(p)
}

// lock locks the directory until unlock is called. On a file system without locks it is used unlocked.
func (d *Dir) lock(how int) (root *os.Root, unlock func(), err error) {
	if root, err = os.OpenRoot(d.Path); err != nil {
		return nil, nil, err
	}
	handle, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, nil, err
	}
	_ = unix.Flock(int(handle.Fd()), how)
	return root, func() { handle.Close(); root.Close() }, nil
}

// openFile opens a regular file of at most limit bytes.
func openFile(root *os.Root, name string, limit int64) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > limit {
		err = errors.Join(fmt.Errorf("%s is not a regular file of at most %d bytes", name, limit), err)
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// holdsFile reports whether a file has this content.
func holdsFile(root *os.Root, name string, content []byte) bool {
	f, err := openFile(root, name, int64(len(content)))
	if err != nil {
		return false
	}
	defer f.Close()
	old, err := io.ReadAll(io.LimitReader(f, int64(len(content))+1))
	return err == nil && slices.Equal(old, content)
}

// Open implements Source.
func (d *Dir) Open(_ context.Context, b Blob) (io.ReadCloser, error) {
	for _, name := range []string{packOf(b.Digest), filePaths, fileMounts} {
		if r, ok := d.packs[name].open(b); ok {
			return r, nil
		}
	}
	return nil, &MissingError{b.Digest, "the directory"}
}

// Close implements Source.
func (d *Dir) Close() error {
	for _, p := range d.packs {
		p.close()
	}
	d.packs = nil
	return nil
}

// Export implements Destination. Packs are written under temporary names and renamed, the index last. A reader that
// runs meanwhile or after a crash misses blobs at worst; it never reads wrong ones.
func (d *Dir) Export(ctx context.Context, e Export) error {
	if err := os.MkdirAll(d.Path, 0o755); err != nil {
		return err
	}
	root, unlock, err := d.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	removeLeftOvers(root)
	raw, err := e.Index.encode()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxWriters)
	for name, blobs := range e.Index.byPack() {
		g.Go(func() error { return exportPack(gctx, root, name, blobs, e) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if holdsFile(root, fileIndex, raw) {
		return nil
	}
	return replace(root, fileIndex, func(f *os.File) error {
		_, err := f.Write(raw)
		return err
	})
}

// byPack groups the blobs of an index by pack, including packs without blobs.
func (x *Index) byPack() map[string][]Blob {
	all := map[string][]Blob{}
	for _, name := range packNames() {
		all[name] = nil
	}
	layers, paths, mounts := x.blobs()
	all[filePaths], all[fileMounts] = paths, mounts
	for _, b := range layers {
		all[packOf(b.Digest)] = append(all[packOf(b.Digest)], b)
	}
	return all
}

// exportPack updates one pack.
func exportPack(ctx context.Context, root *os.Root, name string, blobs []Blob, e Export) error {
	if len(blobs) == 0 {
		err := root.Remove(name)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	old, err := openPack(root, name, maxPacked)
	if err != nil {
		old = nil // missing or damaged: write it again
	}
	defer old.close()
	if old.holds(blobs) && !e.distrusts(blobs) {
		return nil
	}
	kept := func(_ context.Context, b Blob) (io.ReadCloser, error) {
		if r, ok := old.open(b); ok {
			return r, nil
		}
		return nil, fs.ErrNotExist
	}
	err = replace(root, name, func(f *os.File) error { return writePack(ctx, f, blobs, kept, e.Open) })
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// replace writes a file under a temporary name and renames it.
func replace(root *os.Root, name string, write func(*os.File) error) error {
	temp := prefixTemp + rand.Text()
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		_ = root.Remove(temp) // report the first error
	}
	return err
}

// removeLeftOvers removes the temporary files of a killed export. The directory must be locked.
func removeLeftOvers(root *os.Root) {
	names, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return
	}
	for _, n := range names {
		if strings.HasPrefix(n.Name(), prefixTemp) {
			_ = root.Remove(n.Name()) // the next export tries again
		}
	}
}
