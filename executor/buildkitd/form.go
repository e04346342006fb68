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

// Packed is a layer in the form in which an image has it.
type Packed struct {
	DiffID    digest.Digest
	Digest    digest.Digest // of the blob
	Size      int64         // of the blob, bytes
	MediaType string
}

// exportAttrs are those of the exporter. Layers come as the daemon has them: one that another client has asked for in another
// compression may come in that. The epoch is that of manifests and configs of which only the list of layers is read: equal
// layers, equal bytes.
func exportAttrs() map[string]string {
	return map[string]string{
		"tar": "false", string(exptypes.OptKeyOCITypes): "true",
		string(exptypes.OptKeySourceDateEpoch):     strconv.FormatInt(executor.DefaultEpoch().Unix(), 10),
		string(exptypes.OptKeyPreferNondistLayers): "false",
	}
}

// epoch is what times in an image are clamped to.
func (r *run) epoch(image *planner.Image) time.Time {
	switch {
	case image.Epoch != nil:
		return *image.Epoch
	case r.opts.Epoch != nil:
		return *r.opts.Epoch
	}
	return executor.DefaultEpoch()
}

// formed are the layers of an image in a form. That is given to them here, each layer once, where a daemon would write every
// layer of every image anew in every build. Layers of a base keep their bytes unless the form says otherwise, and their times.
func (r *run) formed(ctx context.Context, image *planner.Image, f executor.LayerEncoding, list []layer) ([]layer, error) {
	epoch := r.epoch(image)
	out := make([]layer, len(list))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range list {
		if l.Digest == "" || !l.own && !f.Force {
			out[i] = l
			continue
		}
		to := epoch
		if f.KeepTimes || !l.own {
			to = time.Time{}
		}
		g.Go(func() error {
			var err error
			out[i].Packed, err = r.reform(ctx, l.Packed, f, to)
			if err != nil {
				return fmt.Errorf("layer %d: %w", i+1, err)
			}
			return nil
		})
	}
	return out, g.Wait()
}

// reforming names what Reform makes.
type reforming struct {
	digest digest.Digest
	form   executor.LayerEncoding
	epoch  int64
}

// reform is Reform, asked once in a run: many images have the same layers.
func (r *run) reform(ctx context.Context, p Packed, f executor.LayerEncoding, epoch time.Time) (Packed, error) {
	key := reforming{p.Digest, f, epoch.Unix()}
	if known, ok := r.reformed.Load(key); ok {
		return known.(Packed), nil
	}
	got, err := r.engine.opts.Blobs.Recompress(ctx, p, f, epoch)
	if err == nil {
		r.reformed.Store(key, got)
	}
	return got, err
}
