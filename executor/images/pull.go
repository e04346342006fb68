package images

import (
	"context"
	"fmt"
	"io"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/registry"
)

// maxPulls is how many layers are fetched at the same time.
const maxPulls = 4

// Pull fetches one platform of an image with all its layers. It calls record once every layer is in the store; record
// stores the manifest and the config, and names the image.
func Pull(
	ctx context.Context, s *cache.Store, client *registry.Client, name string, p ocispecs.Platform,
	record func(registry.Resolved) error,
) (registry.Resolved, error) {
	resolved, err := client.Resolve(ctx, name, p)
	if err != nil {
		return resolved, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxPulls)
	for _, l := range resolved.Manifest.Layers {
		g.Go(func() error {
			return s.PutBlob(l.Digest, l.Size, func() (io.ReadCloser, error) {
				desc := ocispecs.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size, URLs: l.URLs}
				return client.Blob(gctx, resolved.Ref, desc)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return resolved, err
	}
	if err := record(resolved); err != nil {
		return resolved, fmt.Errorf("store image %s: %w", name, err)
	}
	return resolved, nil
}
