package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/executor/tree"
)

// entry finds the entry of a key on this machine, else in the caches from elsewhere; from says in which.
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

// adopt keeps an entry of a cache from elsewhere, so that it is found here once its layers are.
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

// keepEmpty makes the empty layer, which nothing brings along.
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

// candidates are the results of a file operation on other parents, here and elsewhere.
func (b *build) candidates(group digest.Digest) ([]*cache.Entry, error) {
	here, err := b.store.Candidates(group)
	return append(here, b.imports.candidates(group)...), err
}

// importLayer makes the directory form of a layer from a cache from elsewhere.
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
		return "", fmt.Errorf("layer %s is gone again: something else cleans the cache", id)
	}
	return dir, nil
}

// importedLayer finds a layer that is not here and that a cache from elsewhere has whole.
func (b *build) importedLayer(id digest.Digest) (importedLayer, error) {
	l, ok := b.imports.layer(id)
	if !ok {
		return l, fmt.Errorf("layer %s is not in the cache any more: something else cleans it", id)
	}
	if b.dry {
		return l, errOffline
	}
	if l.Blob == nil {
		return l, b.imports.lose(l, errLeftBehind)
	}
	return l, nil
}

// lost is an error about a layer from elsewhere, which then counts as lost; faults of this machine are not of that kind.
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

// unpackImported brings a layer and its paths, and compares them.
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
		{Encoding: l.Encoding, DiffID: l.DiffID, Digest: l.Blob.Digest, Size: l.Blob.Size, MediaType: l.Blob.MediaType}, packedPaths(l.ID, *l.Paths),
	}
	return draft.Commit(l.ID, meta)
}

// unpackInto unpacks a blob into an empty directory, which gets the times, and the root the attributes, of the index.
func (b *build) unpackInto(ctx context.Context, l importedLayer, index *tree.Index, dir string) (cache.LayerMeta, error) {
	var res layers.UnpackResult
	err := b.streamImported(ctx, l.from, *l.Blob, func(r io.Reader) (err error) {
		res, err = layers.Unpack(ctx, r, layers.UnpackOptions{Dir: dir, UserXattr: b.userXattr})
		return err
	})
	if err == nil && res.DiffID != l.DiffID {
		err = fmt.Errorf("its content has the digest %s, not %s", res.DiffID, l.DiffID)
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

var errPaths = errors.New("the list of its paths is that of another layer")

// agrees says whether an index says of a path what the tar says, but for times.
func agrees(r layers.Record, n tree.Node) bool {
	e := n.Entry
	if r.Whiteout || n.Whiteout {
		return r.Whiteout == n.Whiteout
	}
	return r.Mode == e.Mode && r.UID == e.UID && r.GID == e.GID && r.Size == e.Size && r.Link == e.Link && r.Opaque == n.Opaque && r.Rdev == e.Rdev
}

// likeNode sets the time of a path that was unpacked, and of the root all attributes. Its parents are directories of this
// process alone.
func likeNode(dir string, n tree.Node) error {
	if n.Whiteout {
		return nil
	}
	path := filepath.Join(dir, n.Entry.Path)
	if n.Entry.Path == "/" {
		if err := errors.Join(os.Lchown(path, int(n.Entry.UID), int(n.Entry.GID)), unix.Chmod(path, n.Entry.Mode&0o7777)); err != nil {
			return err
		}
	}
	at, err := unix.TimeToTimespec(n.Entry.Mtime)
	if err != nil {
		return err
	}
	err = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) && n.Entry.Rdev != 0 {
		return nil // an ordinary user has no device nodes
	}
	return err
}

// maxPaths bounds the path index of one layer, in bytes.
const maxPaths = 1 << 30

// pathsOf gives the path index of a layer from elsewhere, which answers look-ups without the layer.
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
	if raw, err = remotecache.Expand(raw, maxPaths); err != nil {
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

// streamImported gives the bytes of a blob to use: those that the store has, else those of a cache from elsewhere, which are
// kept. All of them are read, and checked.
func (b *build) streamImported(ctx context.Context, from remotecache.Source, blob remotecache.Blob, use func(io.Reader) error) error {
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
	defer func() { a.end(nil) }() // what cannot be had is a warning
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

// readOut gives r to use and reads what that leaves. That the bytes are wrong explains all other faults.
func readOut(r io.Reader, use func(io.Reader) error) error {
	err := use(r)
	_, rest := io.Copy(io.Discard, r)
	if bad := new(remotecache.DamagedError); err == nil || errors.As(rest, &bad) {
		return rest
	}
	return err
}

// importedPacked finds a packed form that a layer from elsewhere is known to have, while the layer is not here.
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

// fetchPacked brings the blob of a form that importedPacked found: as it is where it travelled so, else packed anew.
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
			err = b.imports.lose(c, fmt.Errorf("its encoding %q has the digest %s, not %s", want.Encoding, got.Digest, want.Digest))
		}
		return err
	})
	return err
}
