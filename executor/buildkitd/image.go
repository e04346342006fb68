package buildkitd

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// inlineCache is the field of an image's config in which BuildKit looks for a cache.
const inlineCache = "moby.buildkit.cache.v0"

// maxSmall bounds manifests and configs, in bytes.
const maxSmall = 16 << 20

var errTooLarge = fmt.Errorf("larger than %d bytes", maxSmall)

// builtImage is an image that a builder has built.
type builtImage struct {
	builder *builder
	layers  map[executor.LayerEncoding][]layer
	cache   json.RawMessage // for the config, or nil
}

// layer is one layer of an image; the zero layer stands for a step that changed nothing.
type layer struct {
	Packed
	own bool // not of the base
}

// exportedImage is an image as a daemon exported it.
type exportedImage struct {
	layers []layer
	cache  json.RawMessage
}

// addPlatforms adds the list of images to a result, as platforms.
func addPlatforms(result *gateway.Result, list exptypes.Platforms) error {
	raw, err := json.Marshal(list)
	if err != nil {
		return err
	}
	result.AddMeta(exptypes.ExporterPlatformsKey, raw)
	return nil
}

// importImages reads the layers of the images that a solve exported to the store, in the encodings that outputs need.
func (b *batch) importImages(ctx context.Context, res *client.SolveResponse, images []*planner.Image) error {
	raw, err := base64.StdEncoding.DecodeString(res.ExporterResponse[exptypes.ExporterImageDescriptorKey])
	if err != nil {
		return fmt.Errorf("exporter response: %w", err)
	}
	var desc ocispecs.Descriptor
	if err := json.Unmarshal(raw, &desc); err != nil {
		return fmt.Errorf("exporter response: %w", err)
	}
	blobs := b.run.engine.opts.Blobs
	var index ocispecs.Index
	if err := readJSON(blobs, desc, &index); err != nil {
		return fmt.Errorf("index of the images: %w", err)
	}
	if len(index.Manifests) != len(images) {
		return fmt.Errorf("got %d images, want %d", len(index.Manifests), len(images))
	}
	for i, image := range images {
		if err := b.importImage(ctx, index.Manifests[i], image); err != nil {
			return fmt.Errorf("image of target %s: %w", image.Target, err)
		}
	}
	return nil
}

// importImage reads the layers of one image, in each encoding that its outputs need.
func (b *batch) importImage(ctx context.Context, desc ocispecs.Descriptor, image *planner.Image) error {
	exported, err := readImage(b.run.engine.opts.Blobs, desc, image)
	if err != nil {
		return err
	}
	if !b.run.caches.inline[image.Target] {
		exported.cache = nil
	}
	for _, enc := range b.run.encodings[image.Target] {
		layers, err := b.run.encoded(ctx, image, enc, exported.layers)
		if err != nil {
			return err
		}
		b.mu.Lock()
		m := b.result(image)
		m.layers[enc] = layers
		if exported.cache != nil {
			m.cache = exported.cache
		}
		b.mu.Unlock()
	}
	return nil
}

func readJSON(blobs Blobs, desc ocispecs.Descriptor, v any) error {
	raw, err := readBlob(blobs, desc)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// readImage reads the layers of one image. The daemon sets EmptyLayer in the history for steps that changed nothing.
func readImage(blobs Blobs, desc ocispecs.Descriptor, image *planner.Image) (exportedImage, error) {
	var manifest ocispecs.Manifest
	if err := readJSON(blobs, desc, &manifest); err != nil {
		return exportedImage{}, fmt.Errorf("manifest: %w", err)
	}
	var planned ocispecs.Image
	var got struct {
		ocispecs.Image
		Cache json.RawMessage `json:"moby.buildkit.cache.v0"` // inlineCache
	}
	if err := readJSON(blobs, manifest.Config, &got); err != nil {
		return exportedImage{}, fmt.Errorf("config: %w", err)
	}
	if err := json.Unmarshal(image.Config, &planned); err != nil {
		return exportedImage{}, fmt.Errorf("config of the frontend: %w", err)
	}
	if len(got.RootFS.DiffIDs) != len(manifest.Layers) {
		return exportedImage{}, fmt.Errorf("manifest has %d layers, config %d",
			len(manifest.Layers), len(got.RootFS.DiffIDs))
	}
	out := exportedImage{cache: got.Cache}
	next := 0
	addLayer := func() {
		id := got.RootFS.DiffIDs[next]
		own := next >= len(planned.RootFS.DiffIDs) || planned.RootFS.DiffIDs[next] != id
		l := manifest.Layers[next]
		out.layers = append(out.layers, layer{Packed{id, l.Digest, l.Size, l.MediaType}, own})
		next++
	}
	for i, h := range got.History {
		switch {
		case !h.EmptyLayer && next < len(manifest.Layers):
			addLayer()
		case h.EmptyLayer && i < len(planned.History) && !planned.History[i].EmptyLayer:
			out.layers = append(out.layers, layer{})
		}
	}
	for next < len(manifest.Layers) {
		addLayer()
	}
	return out, nil
}

// built returns a finished image for executor.Export.
func (r *run) built(image *planner.Image) executor.Built {
	m := r.results[image]
	return executor.Built{
		Image: m.withCache(image),
		Layers: func(_ context.Context, f executor.LayerEncoding) ([]v1.Layer, error) {
			return r.layers(m.layers[f])
		},
		Files: func(ctx context.Context, f executor.LayerEncoding, w io.Writer) error {
			return r.files(ctx, image, image.Root, f, w)
		},
		Tree: func(ctx context.Context, e planner.Edge, w io.Writer) error {
			return r.files(ctx, image, e, executor.LayerEncoding{}, w)
		},
	}
}

// withCache returns the image with the daemon's cache in its config, for cache-to with type=inline.
func (m *builtImage) withCache(image *planner.Image) *planner.Image {
	if m.cache == nil {
		return image
	}
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(image.Config, &fields) != nil {
		return image // executor.Assemble reports the invalid config
	}
	fields[inlineCache] = m.cache
	config, err := json.Marshal(fields)
	if err != nil {
		return image
	}
	with := *image
	with.Config = config
	return &with
}

// layers returns layers as those of go-containerregistry, nil for a step that changed nothing.
func (r *run) layers(list []layer) ([]v1.Layer, error) {
	out := make([]v1.Layer, len(list))
	for i, l := range list {
		if l.Digest == "" {
			continue
		}
		var err error
		if out[i], err = partial.CompressedToLayer(&storedLayer{l.Packed, r.engine.opts.Blobs}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// storedLayer is a layer whose blob is in the store.
type storedLayer struct {
	packed Packed
	blobs  Blobs
}

// Digest implements partial.CompressedLayer.
func (l *storedLayer) Digest() (v1.Hash, error) { return v1.NewHash(string(l.packed.Digest)) }

// DiffID implements partial.WithDiffID.
func (l *storedLayer) DiffID() (v1.Hash, error) { return v1.NewHash(string(l.packed.DiffID)) }

// Compressed implements partial.CompressedLayer.
func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	return os.Open(l.blobs.BlobPath(l.packed.Digest))
}

// Size implements partial.CompressedLayer.
func (l *storedLayer) Size() (int64, error) { return l.packed.Size, nil }

// MediaType implements partial.CompressedLayer.
func (l *storedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.packed.MediaType), nil
}
