package embedded

import (
	"context"
	"io"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// epoch returns the time to which times in an image are set.
func (b *build) epoch(image *planner.Image) time.Time {
	switch {
	case image.Epoch != nil:
		return *image.Epoch
	case b.opts.Epoch != nil:
		return *b.opts.Epoch
	}
	return executor.DefaultEpoch()
}

// packings returns a function that lists, for each image, how its layers will be packed.
func (b *build) packings() (func(image int) []packing, error) {
	encodings, err := executor.Encodings(b.graph.Images, b.opts.Dir)
	if err != nil {
		return nil, err
	}
	return func(i int) []packing {
		image := b.graph.Images[i]
		var list []packing
		for _, f := range encodings[image.Target] {
			list = append(list, packing{f, f.EpochOr(b.epoch(image)).Unix()})
		}
		return list
	}, nil
}

// export writes all outputs of images.
func (b *build) export(ctx context.Context, images []*planner.Image) ([]executor.ImageResult, error) {
	built := make([]executor.Built, len(images))
	for i, image := range images {
		built[i] = executor.Built{
			Image: image,
			Layers: func(ctx context.Context, f executor.LayerEncoding) ([]v1.Layer, error) {
				return b.imageLayers(ctx, image, packing{f, f.EpochOr(b.epoch(image)).Unix()})
			},
			Files: func(ctx context.Context, f executor.LayerEncoding, w io.Writer) error {
				return b.files(ctx, image.Root, packing{f, f.EpochOr(b.epoch(image)).Unix()}, w)
			},
			Fetch: func(ctx context.Context, o executor.Output) error {
				return b.fetchOutput(ctx, image, o.Kind, packing{o.Encoding, o.Encoding.EpochOr(b.epoch(image)).Unix()})
			},
			Tree: func(ctx context.Context, e planner.Edge, w io.Writer) error {
				return b.files(ctx, e, packing{epoch: b.epoch(image).Unix()}, w)
			},
			Resolved: b.resolved, Claim: b.claimOf,
		}
	}
	opt := executor.ExportOptions{
		Dir: b.opts.Dir, Store: imageStoreOf{b.store, b.engine.opts.Origin}, Stdout: b.opts.Stdout,
		Events: b.events.send, Started: b.started, Written: b.store, Pusher: executor.NewPusher(b.engine.client),
	}
	if b.opts.Epoch != nil {
		opt.Epoch = *b.opts.Epoch
	}
	return executor.Export(ctx, built, opt)
}

// fetchOutput fetches the blobs that an archive of an image reads, or the layers that one of its files reads. A layer
// of a remote cache that is lost after the first byte of stdout could not be replaced by running its step.
func (b *build) fetchOutput(ctx context.Context, image *planner.Image, kind executor.Kind, p packing) error {
	if kind == executor.KindTar {
		c, err := b.of(image.Root).chain(ctx)
		if err == nil {
			_, err = b.dirs(ctx, c)
		}
		return err
	}
	all, err := b.imageLayers(ctx, image, p)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(b.transfers))
	for _, l := range all {
		switch l := l.(type) {
		case *storedBlob:
			g.Go(l.fetch)
		case *baseBlob:
			g.Go(func() error { return l.layer.fetch(gctx) })
		}
	}
	return g.Wait()
}

// resolver is a source whose identity only the network knows, such as a git branch.
type resolver interface {
	// resolved returns the commit or digest used in this run, "" if there was none.
	resolved() string
}

// resolved returns the commit or digest of a git or http source.
func (b *build) resolved(_ context.Context, s *planner.Step) string {
	if r, ok := b.byStep[s].op.(resolver); ok {
		return r.resolved()
	}
	return ""
}

// claimOf returns the remote cache that claims the result of a step. Of a directory it is the last part: a provenance
// has no path of this machine.
func (b *build) claimOf(s *planner.Step) string {
	n := b.byStep[s]
	switch {
	case n == nil:
		return ""
	case filepath.IsAbs(n.result.Claim):
		return filepath.Base(n.result.Claim)
	}
	return n.result.Claim
}

// files writes the merged files of an edge as one tar. Times are clamped; those of a base stay, because they are the
// same everywhere.
func (b *build) files(ctx context.Context, e planner.Edge, p packing, w io.Writer) error {
	c, err := b.of(e).chain(ctx)
	if err != nil {
		return err
	}
	if _, err := b.dirs(ctx, c); err != nil {
		return err
	}
	return b.view(ctx, c, func(files tree.FS) error {
		return layers.FlattenTar(ctx, files, w, p.times(true))
	})
}

// ImageStore returns the cache's image store for the outputs of a project. The command gives it to the engine for
// BuildKit daemons.
func ImageStore(store *cache.Store, origin cache.Origin) executor.ImageStore {
	return imageStoreOf{store, origin}
}

// imageStoreOf writes images to the cache's image store.
type imageStoreOf struct {
	store  *cache.Store
	origin cache.Origin // recorded with each name
}

// WriteBlob stores a blob unless it is there.
func (s imageStoreOf) WriteBlob(
	_ context.Context, d digest.Digest, size int64, open func() (io.ReadCloser, error),
) error {
	return s.store.PutBlob(d, size, open) // opening a base layer stores it too
}

// MoveImages moves the names of images. The store first makes what they name durable.
func (s imageStoreOf) MoveImages(_ context.Context, images []executor.StoredImage) ([]bool, error) {
	list := make([]cache.Image, len(images))
	for i, m := range images {
		list[i] = cache.Image{
			Name: m.Name, Target: m.Target, Digest: m.Digest, MediaType: m.MediaType, Size: m.Size,
			Kind: cache.KindBuilt, Recorded: time.Now().UTC(), Origin: s.origin,
		}
	}
	return s.store.MoveImages(list)
}
