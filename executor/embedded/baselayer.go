package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/tree"
)

// unpack returns the directory form of the layer and creates it on demand. The blob is downloaded, checked, unpacked
// and stored in one pass.
//
// Layers of an image are unpacked in parallel. A layer needs the layers below it only for directories that it does
// not list and for hard links into them; lowerLayers waits for those at the end. The directory is committed only
// after the diff id of the tar is verified, so a layer on disk is always complete and correct.
func (l *baseLayer) unpack(ctx context.Context) (string, error) {
	b := l.base.n.b
	if dir, ok := b.store.LayerDir(l.chainID); ok {
		return dir, nil
	}
	_, err := b.once(ctx, "unpack "+l.chainID.String(), func() error {
		unlock, err := b.store.Lock(ctx, l.chainID)
		if err != nil {
			return err
		}
		defer unlock()
		if b.store.HasLayer(l.chainID) {
			return nil
		}
		return l.stream(ctx, l.unpackFrom)
	})
	if err != nil {
		return "", l.base.n.wrap(fmt.Errorf("layer %s: %w", l.desc.Digest, err))
	}
	dir, ok := b.store.LayerDir(l.chainID)
	if !ok {
		return "", b.store.MissingLayer(l.chainID)
	}
	return dir, nil
}

// unpackFrom unpacks the blob in r into a new layer. yield is called before it waits for a lower layer, see stream.
func (l *baseLayer) unpackFrom(ctx context.Context, r io.Reader, yield func()) error {
	b := l.base.n.b
	draft, err := b.store.NewLayer()
	if err != nil {
		return err
	}
	opt := layers.UnpackOptions{Dir: draft.FS, UserXattr: b.userXattr}
	if l.below != nil {
		lower := &lowerLayers{ctx: ctx, top: l.below, yield: yield}
		defer lower.close()
		opt.Below = lower
	}
	res, err := layers.Unpack(ctx, r, opt)
	if err == nil && res.DiffID != l.DiffID {
		err = errMismatch(l.DiffID, res.DiffID)
	}
	if err != nil {
		return errors.Join(err, draft.Discard())
	}
	meta, err := metaOf(res, draft.FS)
	if err != nil {
		return errors.Join(err, draft.Discard())
	}
	meta.Packed = []cache.Packed{{
		Encoding: cache.EncodingBase, DiffID: l.DiffID, Digest: l.desc.Digest, Size: l.desc.Size,
		MediaType: l.desc.MediaType,
	}}
	return draft.Commit(l.chainID, meta)
}

// metaOf returns what cache.MeasureLayer returns for an unpacked layer, without reading the directory again if the
// tar listed all of it.
func metaOf(res layers.UnpackResult, dir string) (cache.LayerMeta, error) {
	if res.LinksBelow {
		return cache.MeasureLayer(dir)
	}
	meta := cache.LayerMeta{Files: int64(len(res.Records)) - 1} // the root does not count
	for _, r := range res.Records {
		if !r.Whiteout && r.Mode&unix.S_IFMT == unix.S_IFREG {
			meta.Size += r.Size
		}
	}
	return meta, nil
}

// index returns the list of the layer's paths, which is computed while the blob is downloaded, or from the stored
// blob. It is nil for a layer that must be unpacked, because it links to files of lower layers.
func (l *baseLayer) index(ctx context.Context) (*tree.Index, error) {
	b := l.base.n.b
	if x := loadIndex(b.store, l.DiffID); x != nil {
		return x, nil
	}
	v, err := b.onceValue(ctx, "index "+l.DiffID.String(), func() (any, error) {
		var x *tree.Index
		err := l.stream(ctx, func(ctx context.Context, r io.Reader, _ func()) error {
			res, err := layers.BuildIndex(ctx, r, layers.Limits{})
			if err == nil && res.DiffID != l.DiffID {
				err = errMismatch(l.DiffID, res.DiffID)
			}
			if err != nil {
				return err
			}
			if res.LinksBelow {
				return nil // attributes of its files come from a lower layer: only unpacking finds them
			}
			x = indexOf(res.Records)
			return saveIndex(b.store, l.DiffID, x)
		})
		return x, err
	})
	if err != nil {
		return nil, l.base.n.wrap(fmt.Errorf("layer %s: %w", l.desc.Digest, err))
	}
	return v.(*tree.Index), nil
}

// fetch downloads the blob unless the store has it.
func (l *baseLayer) fetch(ctx context.Context) error {
	b := l.base.n.b
	if b.store.HasBlob(l.desc.Digest, l.desc.Size) {
		return nil
	}
	_, err := b.once(ctx, "fetch "+l.desc.Digest.String(), func() error {
		return l.stream(ctx, func(_ context.Context, r io.Reader, _ func()) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
	})
	return err
}

// stream passes the blob's bytes to use: from the store if it has them, otherwise from the image's source, and then
// it stores them. Bytes that do not match the digest are an error and are not stored.
//
// use must call yield before it waits for another layer. That layer may be waiting for the transfer slot that this
// one holds; without yield the two would wait for each other forever.
func (l *baseLayer) stream(
	ctx context.Context, use func(ctx context.Context, r io.Reader, yield func()) error,
) (err error) {
	b := l.base.n.b
	if b.dry {
		return errOffline
	}
	if b.store.HasBlob(l.desc.Digest, l.desc.Size) {
		err := l.fromStore(ctx, use)
		if err == nil || ctx.Err() != nil {
			return err
		}
		// A damaged blob counts as missing.
	}
	release, err := b.transfer(ctx)
	if err != nil {
		return err
	}
	defer release()
	l.base.n.begin()
	defer func() { l.base.n.end(err) }()
	body, err := l.base.from.blob(ctx, l.base.ref, l.desc)
	if err != nil {
		return err
	}
	defer body.Close()
	_, _, err = b.store.WriteBlob(func(keep io.Writer) (digest.Digest, int64, error) {
		tee := io.TeeReader(&counter{r: body, report: l.report()}, keep)
		err := use(ctx, tee, release)
		if err == nil {
			_, err = io.Copy(io.Discard, tee) // the bytes after the end of the tar
		}
		return l.desc.Digest, l.desc.Size, err
	})
	return err
}

// fromStore reads the stored blob and checks its digest.
func (l *baseLayer) fromStore(ctx context.Context, use func(context.Context, io.Reader, func()) error) error {
	file, err := os.Open(l.base.n.b.store.BlobPath(l.desc.Digest))
	if err != nil {
		return err
	}
	defer file.Close()
	check := l.desc.Digest.Verifier()
	tee := io.TeeReader(file, check)
	if err := use(ctx, tee, func() {}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if !check.Verified() {
		return fmt.Errorf("blob %s is damaged", l.desc.Digest)
	}
	return nil
}

// report returns a function that shows the progress of a download.
func (l *baseLayer) report() func(int64) {
	n := l.base.n
	return func(done int64) {
		n.b.events.send(executor.Event{
			Step: n.step.Digest, Name: n.step.Name, Kind: executor.KindProgress,
			ID: l.desc.Digest.String(), Current: done, Total: l.desc.Size,
		})
	}
}

// counter counts the bytes read and reports them every 256 KiB.
type counter struct {
	r         io.Reader
	done, out int64
	report    func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.done-c.out >= 256<<10 || err != nil && c.done > c.out {
		c.out = c.done
		c.report(c.done)
	}
	return n, err
}

// once runs f unless it is already running for the same key; then it waits for that call. f must end soon after the
// build is cancelled: a run does not return while f still writes.
func (b *build) once(ctx context.Context, key string, f func() error) (any, error) {
	return b.onceValue(ctx, key, func() (any, error) { return nil, f() })
}

// onceValue is once for functions with a result.
func (b *build) onceValue(ctx context.Context, key string, f func() (any, error)) (any, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	v, err, _ := b.flights.Do(key, f)
	return v, err
}

// indexOf returns the path index of the records of a layer's tar.
func indexOf(records []layers.Record) *tree.Index {
	nodes := make([]tree.Node, len(records))
	for i, r := range records {
		nodes[i] = tree.Node{
			Entry: tree.Entry{
				Path: r.Path, Mode: r.Mode, UID: r.UID, GID: r.GID, Size: r.Size, Mtime: r.Mtime,
				Link: r.Link, Rdev: r.Rdev, Inode: r.Inode, Nlink: r.Nlink,
			},
			Xattrs: r.Xattrs, Whiteout: r.Whiteout, Opaque: r.Opaque, Implied: r.Implied,
		}
	}
	return tree.NewIndex(nodes)
}
