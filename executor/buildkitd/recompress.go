package buildkitd

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// Packed is a layer as the blob of an image.
type Packed struct {
	DiffID    digest.Digest
	Digest    digest.Digest // of the blob
	Size      int64         // of the blob, bytes
	MediaType string
}

// exportAttrs returns the attributes of the exporter. Layers come in whatever compression the daemon has them, which
// may be one that another client requested. The epoch makes the manifests and configs of equal layers equal. readImage
// reads their lists of layers, the history and the inline cache.
func exportAttrs() map[string]string {
	return map[string]string{
		"tar": "false", string(exptypes.OptKeyOCITypes): "true",
		string(exptypes.OptKeySourceDateEpoch):     strconv.FormatInt(executor.DefaultEpoch().Unix(), 10),
		string(exptypes.OptKeyPreferNondistLayers): "false",
	}
}

// epoch returns the time to which times in an image are clamped.
func (r *run) epoch(image *planner.Image) time.Time {
	switch {
	case image.Epoch != nil:
		return *image.Epoch
	case r.opts.Epoch != nil:
		return *r.opts.Epoch
	}
	return executor.DefaultEpoch()
}

// encoded returns the layers of an image in an encoding. Layers are recompressed in this process, each once: a daemon
// would write every layer of every image again in each build. Layers of a base keep their times, and their bytes unless
// the encoding forces it.
func (r *run) encoded(
	ctx context.Context, image *planner.Image, enc executor.LayerEncoding, list []layer,
) ([]layer, error) {
	epoch := enc.EpochOr(r.epoch(image))
	out := make([]layer, len(list))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range list {
		if l.Digest == "" || !l.own && !enc.Force {
			out[i] = l
			continue
		}
		to := epoch
		if enc.KeepTimes || !l.own {
			to = time.Time{}
		}
		g.Go(func() error {
			var err error
			out[i].Packed, err = r.recompress(ctx, l.Packed, enc, to)
			if err != nil {
				return fmt.Errorf("layer %d: %w", i+1, err)
			}
			return nil
		})
	}
	return out, g.Wait()
}

// recompressKey identifies a result of Recompress.
type recompressKey struct {
	digest   digest.Digest
	encoding executor.LayerEncoding
	epoch    int64
}

// recompress memoizes Recompress by digest, encoding and epoch: many images have the same layers. Concurrent calls may
// repeat it, which is harmless.
func (r *run) recompress(
	ctx context.Context, p Packed, enc executor.LayerEncoding, epoch time.Time,
) (Packed, error) {
	key := recompressKey{p.Digest, enc, epoch.Unix()}
	if known, ok := r.recompressed.Load(key); ok {
		return known.(Packed), nil
	}
	got, err := r.engine.opts.Blobs.Recompress(ctx, p, enc, epoch)
	if err == nil {
		r.recompressed.Store(key, got)
	}
	return got, err
}
