package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/executor/tree"
)

// entry returns the entry of a key from the local cache, else from a remote cache; from names the latter.
func (b *build) entry(key digest.Digest) (e *cache.Entry, from string, err error) {
	e, err = b.store.Lookup(key)
	if e != nil || err != nil {
		return e, "", err
	}
	if c := b.imports.entry(key); c != nil {
		return c.Entry, c.from.String(), nil
	}
	return nil, "", nil
}

// adopt stores an imported entry, so that later builds find it in the local cache.
func (b *build) adopt(e *cache.Entry, keys ...digest.Digest) error {
	if b.dry {
		return nil
	}
	if err := b.keepEmpty(e); err != nil {
		return err
	}
	if err := b.store.Import(e, append(keys, latestKey(e.Step))...); err != nil {
		return err
	}
	if group, ok := groupOf(e); ok {
		return b.store.PutCandidate(group, e)
	}
	return nil
}

// keepEmpty creates the empty layer if an entry uses it: exports do not contain it.
func (b *build) keepEmpty(e *cache.Entry) error {
	if b.dry {
		return nil
	}
	for _, o := range e.Outputs {
		for _, p := range o.Parts {
			if _, ok := b.store.LayerDir(p.Layer); p.Layer != emptyLayer || ok {
				continue
			}
			draft, err := b.store.NewLayer()
			if err != nil {
				return err
			}
			return draft.Commit(emptyLayer, cache.LayerMeta{})
		}
	}
	return nil
}

// candidates returns the results of a file operation on other parents, local and imported.
func (b *build) candidates(group digest.Digest) ([]*cache.Entry, error) {
	here, err := b.store.Candidates(group)
	return append(here, b.imports.candidates(group)...), err
}

// importLayer returns the directory of a layer, which it fetches from a remote cache.
func (b *build) importLayer(ctx context.Context, id digest.Digest) (string, error) {
	_, err := b.once(ctx, "importLayer "+id.String(), func() error {
		unlock, err := b.store.Lock(ctx, id)
		if err != nil {
			return err
		}
		defer unlock()
		if _, ok := b.store.LayerDir(id); ok {
			return nil
		}
		l, err := b.importedLayer(id)
		if err != nil {
			return err
		}
		return b.lost(ctx, l, b.unpackImported(ctx, l))
	})
	if err != nil {
		return "", err
	}
	dir, ok := b.store.LayerDir(id)
	if !ok {
		return "", fmt.Errorf("layer %s was deleted by another program while in use; build again", id)
	}
	return dir, nil
}

// importedLayer returns a layer that is not on this machine and that a remote cache has with its blob.
func (b *build) importedLayer(id digest.Digest) (importedLayer, error) {
	l, ok := b.imports.layer(id)
	if !ok {
		return l, fmt.Errorf("layer %s was deleted from the cache by another program; build again", id)
	}
	if b.dry {
		return l, errOffline
	}
	if l.Blob == nil {
		return l, b.imports.lose(l, errLeftBehind)
	}
	return l, nil
}

// lost marks a layer as lost if err is the remote cache's fault. Errors of this machine stay as they are.
func (b *build) lost(ctx context.Context, l importedLayer, err error) error {
	var reg *registry.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case machineFault(err) && !errors.As(err, &reg):
		return err
	}
	return b.imports.lose(l, err)
}

// unpackImported fetches a layer and its path index, and compares them.
func (b *build) unpackImported(ctx context.Context, l importedLayer) error {
	index, err := b.readPaths(ctx, l)
	if err != nil {
		return err
	}
	draft, err := b.store.NewLayer()
	if err != nil {
		return err
	}
	meta, err := b.unpackInto(ctx, l, index, draft.FS)
	if err != nil {
		return errors.Join(err, draft.Discard())
	}
	meta.Packed = []cache.Packed{
		{Encoding: l.Encoding, DiffID: l.DiffID, Digest: l.Blob.Digest, Size: l.Blob.Size, MediaType: l.Blob.MediaType},
		packedPaths(l.ID, *l.Paths),
	}
	return draft.Commit(l.ID, meta)
}

// unpackInto unpacks a blob into an empty directory and verifies it against the index. Times, and the attributes of
// the root, come from the index, because the blob lacks them.
func (b *build) unpackInto(
	ctx context.Context, l importedLayer, index *tree.Index, dir string,
) (cache.LayerMeta, error) {
	var res layers.UnpackResult
	err := b.streamImported(ctx, l.from, *l.Blob, func(r io.Reader) (err error) {
		res, err = layers.Unpack(ctx, r, layers.UnpackOptions{Dir: dir, UserXattr: b.userXattr})
		return err
	})
	if err == nil && res.DiffID != l.DiffID {
		err = errMismatch(l.DiffID, res.DiffID)
	}
	if err == nil && len(res.Records) != index.Len() {
		err = errPaths
	}
	if err != nil {
		return cache.LayerMeta{}, err
	}
	for _, r := range res.Records {
		n, ok := index.At(r.Path)
		if !ok || r.Path != "/" && !agrees(r, n) {
			return cache.LayerMeta{}, fmt.Errorf("%s: %w", r.Path, errPaths)
		}
		if err := likeNode(dir, n); err != nil {
			return cache.LayerMeta{}, err
		}
	}
	return metaOf(res, dir)
}

var errPaths = errors.New("the path index does not match the layer")

// agrees reports whether the index and the tar agree about a path, except for times.
func agrees(r layers.Record, n tree.Node) bool {
	e := n.Entry
	if r.Whiteout || n.Whiteout {
		return r.Whiteout == n.Whiteout
	}
	return r.Mode == e.Mode && r.UID == e.UID && r.GID == e.GID && r.Size == e.Size &&
		r.Link == e.Link && r.Opaque == n.Opaque && r.Rdev == e.Rdev
}

// likeNode sets the time of an unpacked path, and all attributes of the root. No other process writes to dir.
func likeNode(dir string, n tree.Node) error {
	if n.Whiteout {
		return nil
	}
	path := filepath.Join(dir, n.Entry.Path)
	if n.Entry.Path == "/" {
		err := os.Lchown(path, int(n.Entry.UID), int(n.Entry.GID))
		if err = errors.Join(err, unix.Chmod(path, n.Entry.Mode&0o7777)); err != nil {
			return err
		}
	}
	at, err := unix.TimeToTimespec(n.Entry.Mtime)
	if err != nil {
		return err
	}
	err = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) && n.Entry.Rdev != 0 {
		return nil // unprivileged users cannot create device nodes
	}
	return err
}

// maxPaths bounds the path index of one layer, in bytes.
const maxPaths = 1 << 30

// pathsOf returns the path index of an imported layer, which answers lookups without the layer.
func (b *build) pathsOf(ctx context.Context, id digest.Digest) (*tree.Index, error) {
	l, err := b.importedLayer(id)
	if err != nil {
		return nil, err
	}
	x, err := b.readPaths(ctx, l)
	return x, b.lost(ctx, l, err)
}

func (b *build) readPaths(ctx context.Context, l importedLayer) (*tree.Index, error) {
	c := b.imports
	c.mu.Lock()
	x := c.paths[l.Paths.Digest]
	c.mu.Unlock()
	if x != nil {
		return x, nil
	}
	var raw []byte
	err := b.streamImported(ctx, l.from, *l.Paths, func(r io.Reader) (err error) {
		raw, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	if raw, err = remotecache.Decompress(raw, maxPaths); err != nil {
		return nil, fmt.Errorf("paths: %w", err)
	}
	x = new(tree.Index)
	if err := x.UnmarshalBinary(raw); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paths[l.Paths.Digest] = x
	return x, nil
}

// streamImported passes the bytes of a blob to use: from the store if it has them, otherwise from the remote cache,
// and then it stores them. All bytes are read and verified.
func (b *build) streamImported(
	ctx context.Context, from remotecache.Source, blob remotecache.Blob, use func(io.Reader) error,
) error {
	if b.store.HasBlob(blob.Digest, blob.Size) {
		f, err := os.Open(b.store.BlobPath(blob.Digest))
		if err != nil {
			return err
		}
		defer f.Close()
		return readOut(f, use)
	}
	release, err := b.transfer(ctx)
	if err != nil {
		return err
	}
	defer release()
	a := b.imports.events.begin("fetch from cache " + from.String())
	r, err := from.Open(ctx, blob)
	defer func() { a.end(nil) }() // an error is reported as a warning
	if err != nil {
		return err
	}
	defer r.Close()
	body := &counter{r: r, report: func(done int64) { a.progress(blob.Digest.String(), done, blob.Size) }}
	_, _, err = b.store.WriteBlob(func(keep io.Writer) (digest.Digest, int64, error) {
		return blob.Digest, blob.Size, readOut(io.TeeReader(body, keep), use)
	})
	return err
}

// readOut passes r to use and reads the rest. If the bytes are damaged, that error replaces others, because it
// explains them.
func readOut(r io.Reader, use func(io.Reader) error) error {
	err := use(r)
	_, rest := io.Copy(io.Discard, r)
	if bad := new(remotecache.DamagedError); err == nil || errors.As(rest, &bad) {
		return rest
	}
	return err
}

// importedPacked returns a packed layer that a remote cache records, if the layer itself is not on this machine.
func (b *build) importedPacked(id digest.Digest, encoding string) (cache.Packed, bool) {
	l, ok := b.imports.layer(id)
	if !ok || l.Blob == nil {
		return cache.Packed{}, false
	}
	if _, here := b.store.LayerDir(id); here {
		return cache.Packed{}, false
	}
	for _, p := range l.Packed {
		if p.Encoding == encoding {
			return p, true
		}
	}
	return cache.Packed{}, false
}

// fetchPacked stores the blob that importedPacked found: a copy if the cache has that encoding, otherwise packed
// again.
func (b *build) fetchPacked(ctx context.Context, l layer, p packing, want cache.Packed) error {
	if b.store.HasBlob(want.Digest, want.Size) {
		return nil
	}
	_, err := b.once(ctx, "fetchPacked "+want.Digest.String(), func() error {
		c, err := b.importedLayer(l.id)
		if err != nil {
			return err
		}
		if c.Blob.Digest == want.Digest {
			blob := *c.Blob
			return b.lost(ctx, c, b.streamImported(ctx, c.from, blob, func(io.Reader) error { return nil }))
		}
		got, err := b.compress(ctx, l, p, want.Encoding)
		if err == nil && got.Digest != want.Digest {
			err = fmt.Errorf("encoding %q: %w", want.Encoding, errMismatch(want.Digest, got.Digest))
			err = b.imports.lose(c, err)
		}
		return err
	})
	return err
}
