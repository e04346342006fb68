package embedded

import (
	"bufio"
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

// entry returns the entry of a key: of a step that ran here, else a claim of a remote cache; from is the latter. An
// entry whose outputs are impossible for the step is a miss.
func (b *build) entry(k bothKeys, fits func(*cache.Entry) error) (e *cache.Entry, from *source, err error) {
	for _, own := range []digest.Digest{k.own, k.claimed} {
		if own == "" {
			continue
		}
		e, err = b.store.Lookup(own)
		if err != nil || e != nil && fits(e) == nil {
			return e, nil, err
		}
	}
	return b.imports.entry(k.portable, fits)
}

// noOutputs is fits for entries that are not results of steps.
func noOutputs(e *cache.Entry) error {
	if len(e.Outputs) > 0 {
		return errors.New("it has outputs")
	}
	return nil
}

// adopt stores a claim that this build serves, so that later builds that name its cache find it without the index.
func (b *build) adopt(e *cache.Entry, from *source, portable ...digest.Digest) error {
	if b.dry {
		return nil
	}
	if err := b.keepEmpty(e); err != nil {
		return err
	}
	if err := from.set.Add(e, b.imports.asked(from), portable...); err != nil {
		return err
	}
	if group, ok := remotecache.GroupOf(e); ok {
		return from.set.AddCandidate(group, e)
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
			if p.Layer != emptyLayer || b.store.HasLayer(p.Layer) {
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

// importLayer returns the directory of a layer, which it fetches from a remote cache.
func (b *build) importLayer(ctx context.Context, id digest.Digest) (string, error) {
	_, err := b.once(ctx, "importLayer "+id.String(), func() error {
		unlock, err := b.store.Lock(ctx, id)
		if err != nil {
			return err
		}
		defer unlock()
		if b.store.HasLayer(id) {
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
		return "", b.store.MissingLayer(id)
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
	if l.from.stopped.Load() {
		return l, b.imports.loseStopped(l)
	}
	if l.Blob == nil {
		return l, b.imports.lose(l, errLeftBehind)
	}
	return l, nil
}

// lost marks a layer as lost if err is the remote cache's fault. Errors of this machine stay as they are, except for a
// full disk: what filled it may have been the layer, which is removed by now. If not, the step that runs again says so.
func (b *build) lost(ctx context.Context, l importedLayer, err error) error {
	var reg *registry.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case machineFault(err) && !errors.As(err, &reg) && !cache.DiskFull(err):
		return err
	}
	return b.imports.lose(l, err)
}

// unpackImported fetches a layer and its path index, and compares them.
func (b *build) unpackImported(ctx context.Context, l importedLayer) error {
	draft, err := b.store.NewLayer()
	if err != nil {
		return err
	}
	meta, err := b.unpackInto(ctx, l, draft.FS)
	if err == nil {
		err = b.imports.checkPinned(l.id, draft.FS)
	}
	if err != nil {
		return errors.Join(err, draft.Discard())
	}
	meta.Packed = []cache.Packed{l.packed(), packedPaths(l.id, *l.Paths)}
	return draft.Commit(l.id, meta)
}

// unpackInto unpacks a blob into an empty directory and verifies it against the layer's list of paths. Times, and the
// attributes of the root, come from the list, because the blob lacks them.
func (b *build) unpackInto(ctx context.Context, l importedLayer, dir string) (cache.LayerMeta, error) {
	var res layers.UnpackResult
	err := b.streamImported(ctx, l.from, *l.Blob, func(r io.Reader) error {
		r, err := l.encoded(r)
		if err != nil {
			return err
		}
		res, err = layers.Unpack(ctx, r, layers.UnpackOptions{Dir: dir, UserXattr: b.userXattr})
		return err
	})
	if err == nil && res.DiffID != l.DiffID {
		err = errMismatch(l.DiffID, res.DiffID)
	}
	if err != nil {
		return cache.LayerMeta{}, err
	}
	check := newAgreement(res.Records)
	err = b.readPaths(ctx, l, func(r io.Reader) error {
		return tree.ReadIndex(r, func(n tree.Node) error {
			if !check.next(n) {
				return fmt.Errorf("%s: %w", n.Entry.Path, errPaths)
			}
			return likeNode(dir, n)
		})
	})
	if err == nil && !check.done() {
		err = errPaths
	}
	if err != nil {
		return cache.LayerMeta{}, err
	}
	return metaOf(res, dir)
}

var errPaths = errors.New("the path index does not match the layer")

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

// streamImported passes the bytes of a blob to use: from the store if it has them, otherwise from the remote cache,
// and then it stores them. All bytes are read and verified.
func (b *build) streamImported(
	ctx context.Context, from *source, blob remotecache.Blob, use func(io.Reader) error,
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

// importedPacked returns a packed layer that a remote cache claims, if the layer itself is not on this machine. Its
// digest and diff id enter the image's manifest and config. fetchPacked verifies them when the bytes are read, which a
// push skips if the registry has the blob: then they stay a claim, see build.markClaimed.
func (b *build) importedPacked(id digest.Digest, encoding string) (cache.Packed, bool) {
	l, ok := b.imports.layer(id)
	if !ok || l.Blob == nil {
		return cache.Packed{}, false
	}
	if b.store.HasLayer(id) {
		return cache.Packed{}, false
	}
	if l.Encoding == encoding {
		return l.packed(), true
	}
	for _, p := range l.Packed {
		if p.Encoding == encoding {
			return p, true
		}
	}
	return cache.Packed{}, false
}

// packed returns the record of the layer's blob.
func (l *importedLayer) packed() cache.Packed {
	return cache.Packed{
		Encoding: l.Encoding, DiffID: l.DiffID, Digest: l.Blob.Digest, Size: l.Blob.Size, MediaType: l.Blob.MediaType,
	}
}

// encoded returns r, or an error if its bytes do not have the compression that the layer's encoding names: the media
// type in a manifest follows from that name.
func (l *importedLayer) encoded(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(r)
	if got, want := algorithmOf(buffered), l.Algorithm(); got != want {
		return nil, fmt.Errorf("its encoding is %q, but the compression of its blob is %s", l.Encoding, got)
	}
	return buffered, nil
}

// fetchPacked stores and verifies the blob that importedPacked found: a copy if the cache has that encoding, otherwise
// packed again. A blob that is here under the same digest proves nothing about the diff id.
func (b *build) fetchPacked(ctx context.Context, l layer, p packing, want cache.Packed) error {
	if known, ok := b.packed(l.id, want.Encoding); ok && known == want {
		return nil
	}
	_, err := b.once(ctx, "fetchPacked "+l.id.String()+" "+want.Encoding, func() error {
		c, err := b.importedLayer(l.id)
		if err != nil {
			return err
		}
		if want == c.packed() {
			return b.lost(ctx, c, b.fetchVerified(ctx, c))
		}
		got, err := b.compress(ctx, l, p, want.Encoding)
		if err == nil && (got.Digest != want.Digest || got.DiffID != want.DiffID || got.Size != want.Size) {
			err = fmt.Errorf("encoding %q: %w", want.Encoding, errMismatch(want.Digest, got.Digest))
			err = b.imports.lose(c, err)
		}
		return err
	})
	return err
}

// fetchVerified stores the blob of a layer and verifies its diff id.
func (b *build) fetchVerified(ctx context.Context, c importedLayer) error {
	err := b.streamImported(ctx, c.from, *c.Blob, func(r io.Reader) error {
		r, err := c.encoded(r)
		if err != nil {
			return err
		}
		got, err := layers.DiffID(ctx, r, layers.Limits{})
		if err == nil && got != c.DiffID {
			err = errMismatch(c.DiffID, got)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.store.AddPacked(c.id, c.packed())
}
