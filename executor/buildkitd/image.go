package buildkitd

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// maxSmall bounds manifests and configs, in bytes.
const maxSmall = 16 << 20

var errTooLarge = errors.New("it is too large")

// made is an image that a builder has.
type made struct {
	builder *builder
	layers  map[shape][]layer
}

// layer is one layer of an image; the zero layer is a step's that changed nothing.
type layer struct {
	desc   ocispecs.Descriptor
	diffID digest.Digest
}

func addPlatforms(result *gateway.Result, list exptypes.Platforms) error {
	raw, err := json.Marshal(list)
	if err != nil {
		return err
	}
	result.AddMeta(exptypes.ExporterPlatformsKey, raw)
	return nil
}

// take reads which layers the images have that a build has left in the store.
func (b *batch) take(res *client.SolveResponse, images []*planner.Image, s shape, results map[*planner.Image]*made) error {
	raw, err := base64.StdEncoding.DecodeString(res.ExporterResponse[exptypes.ExporterImageDescriptorKey])
	if err != nil {
		return fmt.Errorf("answer of the exporter: %w", err)
	}
	var desc ocispecs.Descriptor
	if err := json.Unmarshal(raw, &desc); err != nil {
		return fmt.Errorf("answer of the exporter: %w", err)
	}
	blobs := b.run.engine.opts.Blobs
	var index ocispecs.Index
	if err := readJSON(blobs, desc, &index); err != nil {
		return fmt.Errorf("index of the images: %w", err)
	}
	if len(index.Manifests) != len(images) {
		return fmt.Errorf("%d images came of %d", len(index.Manifests), len(images))
	}
	for i, image := range images {
		layers, err := readLayers(blobs, index.Manifests[i], image)
		if err != nil {
			return fmt.Errorf("image of target %s: %w", image.Target, err)
		}
		results[image].layers[s] = layers
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

// readLayers lists the layers of one image. The daemon has aligned the history with them, which tells the steps that
// changed nothing.
func readLayers(blobs Blobs, desc ocispecs.Descriptor, image *planner.Image) ([]layer, error) {
	var manifest ocispecs.Manifest
	if err := readJSON(blobs, desc, &manifest); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var was, is ocispecs.Image
	if err := readJSON(blobs, manifest.Config, &is); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if err := json.Unmarshal(image.Config, &was); err != nil {
		return nil, fmt.Errorf("config of the front end: %w", err)
	}
	if len(is.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, fmt.Errorf("%d layers, %d in the config", len(manifest.Layers), len(is.RootFS.DiffIDs))
	}
	var out []layer
	next := 0
	for i, h := range is.History {
		switch {
		case !h.EmptyLayer && next < len(manifest.Layers):
			out = append(out, layer{manifest.Layers[next], is.RootFS.DiffIDs[next]})
			next++
		case h.EmptyLayer && i < len(was.History) && !was.History[i].EmptyLayer:
			out = append(out, layer{})
		}
	}
	for ; next < len(manifest.Layers); next++ {
		out = append(out, layer{manifest.Layers[next], is.RootFS.DiffIDs[next]})
	}
	return out, nil
}

// built is an image as outputs are made of it.
func (r *run) built(image *planner.Image) executor.Built {
	m := r.made[image]
	return executor.Built{
		Image: image,
		Layers: func(_ context.Context, f executor.LayerForm) ([]v1.Layer, error) {
			return r.layers(m.layers[shape{f, r.epoch(image).Unix()}])
		},
		Files: func(ctx context.Context, f executor.LayerForm, w io.Writer) error {
			return r.files(ctx, image, image.Root, f, w)
		},
		Tree: func(ctx context.Context, e planner.Edge, w io.Writer) error {
			return r.files(ctx, image, e, executor.LayerForm{}, w)
		},
	}
}

func (r *run) layers(list []layer) ([]v1.Layer, error) {
	out := make([]v1.Layer, len(list))
	for i, l := range list {
		if l.desc.Digest == "" {
			continue
		}
		var err error
		if out[i], err = partial.CompressedToLayer(&storedLayer{l, r.engine.opts.Blobs}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// storedLayer is a layer whose blob came from a daemon.
type storedLayer struct {
	layer
	blobs Blobs
}

// Digest implements partial.CompressedLayer.
func (l *storedLayer) Digest() (v1.Hash, error) { return v1.NewHash(string(l.desc.Digest)) }

// DiffID implements partial.WithDiffID.
func (l *storedLayer) DiffID() (v1.Hash, error) { return v1.NewHash(string(l.diffID)) }

// Compressed implements partial.CompressedLayer.
func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	return os.Open(l.blobs.BlobPath(l.desc.Digest))
}

// Size implements partial.CompressedLayer.
func (l *storedLayer) Size() (int64, error) { return l.desc.Size, nil }

// MediaType implements partial.CompressedLayer.
func (l *storedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.desc.MediaType), nil
}

// clampTimes copies a tar with no time after the epoch.
func clampTimes(r io.Reader, w io.Writer, epoch time.Time) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if h.ModTime.After(epoch) {
			h.ModTime = epoch
		}
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
