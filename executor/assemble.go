package executor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/planner"
)

// historyComment marks the history entries that BuildKit's exporter adds for layers without an instruction.
const historyComment = "buildkit.exporter.image.v0"

// AssembleOptions configures Assemble.
type AssembleOptions struct {
	Epoch       time.Time // creation time, and time of history entries without one
	Docker      bool      // Docker media types
	Annotations map[string]string
}

// Assemble returns the image of one platform. layers are those of the base and its own, bottom first. A nil layer
// stands for a step that changed nothing: it is left out and marked empty in the history. Config and history equal
// those that BuildKit's exporter writes. Unknown fields of the config are kept.
func Assemble(img *planner.Image, layers []v1.Layer, opt AssembleOptions) (v1.Image, error) {
	a := &assembled{layers: map[v1.Hash]partial.CompressedLayer{}, docker: opt.Docker}
	config, err := patchConfig(img.Config, layers, opt.Epoch)
	if err != nil {
		return nil, fmt.Errorf("target %s: image config: %w", img.Target, err)
	}
	a.config = config
	m := v1.Manifest{SchemaVersion: 2, MediaType: a.mediaType(), Annotations: opt.Annotations,
		Layers: []v1.Descriptor{}}
	m.Config.MediaType = types.OCIConfigJSON
	if opt.Docker {
		m.Config.MediaType = types.DockerConfigJSON
	}
	if m.Config.Digest, m.Config.Size, err = v1.SHA256(bytes.NewReader(config)); err != nil {
		return nil, err
	}
	for _, l := range layers {
		if l == nil {
			continue
		}
		d, err := a.describe(l)
		if err != nil {
			return nil, fmt.Errorf("target %s: layer: %w", img.Target, err)
		}
		m.Layers = append(m.Layers, d)
	}
	if a.manifest, err = json.Marshal(m); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(a)
}

// assembled implements partial.CompressedImageCore, the least that go-containerregistry needs for an image.
type assembled struct {
	config   []byte
	manifest []byte
	layers   map[v1.Hash]partial.CompressedLayer
	docker   bool
}

func (a *assembled) mediaType() types.MediaType {
	if a.docker {
		return types.DockerManifestSchema2
	}
	return types.OCIManifestSchema1
}

// RawConfigFile implements partial.CompressedImageCore.
func (a *assembled) RawConfigFile() ([]byte, error) { return a.config, nil }

// RawManifest implements partial.CompressedImageCore.
func (a *assembled) RawManifest() ([]byte, error) { return a.manifest, nil }

// MediaType implements partial.CompressedImageCore.
func (a *assembled) MediaType() (types.MediaType, error) { return a.mediaType(), nil }

// LayerByDigest implements partial.CompressedImageCore.
func (a *assembled) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if l := a.layers[h]; l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("image has no layer %s", h)
}

// describe adds a layer and returns its descriptor.
func (a *assembled) describe(l v1.Layer) (v1.Descriptor, error) {
	var d v1.Descriptor
	var err error
	if d.Digest, err = l.Digest(); err != nil {
		return d, err
	}
	if d.Size, err = l.Size(); err != nil {
		return d, err
	}
	if d.MediaType, err = l.MediaType(); err != nil {
		return d, err
	}
	d.MediaType = layerType(d.MediaType, a.docker)
	a.layers[d.Digest] = typedLayer{l, d.MediaType}
	return d, nil
}

type typedLayer struct {
	v1.Layer
	mediaType types.MediaType
}

// MediaType implements v1.Layer.
func (l typedLayer) MediaType() (types.MediaType, error) { return l.mediaType, nil }

// layerType converts the media type of a layer to Docker or OCI. As in BuildKit, non-distributable layers become
// ordinary ones.
func layerType(t types.MediaType, docker bool) types.MediaType {
	switch t {
	case types.OCILayer, types.DockerLayer, types.OCIRestrictedLayer, types.DockerForeignLayer:
		if docker {
			return types.DockerLayer
		}
		return types.OCILayer
	case types.OCIUncompressedLayer, types.DockerUncompressedLayer, types.OCIUncompressedRestrictedLayer:
		if docker {
			return types.DockerUncompressedLayer
		}
		return types.OCIUncompressedLayer
	}
	return t // zstd, which has no Docker media type
}

// patchConfig sets rootfs, history and created in the frontend's config.
func patchConfig(raw []byte, layers []v1.Layer, epoch time.Time) ([]byte, error) {
	var img ocispecs.Image
	if err := json.Unmarshal(raw, &img); err != nil {
		return nil, err
	}
	if img.OS == "" || img.Architecture == "" {
		return nil, errors.New("no os or architecture")
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	rootfs := ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range layers {
		if l == nil {
			continue
		}
		h, err := l.DiffID()
		if err != nil {
			return nil, err
		}
		rootfs.DiffIDs = append(rootfs.DiffIDs, digest.Digest(h.String()))
	}
	created := epoch.UTC()
	history := alignHistory(img.History, layers, created)
	for name, v := range map[string]any{"rootfs": rootfs, "history": history, "created": created} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		fields[name] = b
	}
	return json.Marshal(fields) // keys sorted
}

// alignHistory returns the history with one non-empty entry for each layer, in order. It sets the time of entries
// without one; entries of the base keep theirs.
func alignHistory(history []ocispecs.History, layers []v1.Layer, created time.Time) []ocispecs.History {
	out := make([]ocispecs.History, 0, len(history))
	next := 0 // of layers
	for _, h := range history {
		if !h.EmptyLayer {
			// As in BuildKit, surplus entries become empty. There should be none.
			h.EmptyLayer = next >= len(layers) || layers[next] == nil
			next++
		}
		if h.Created == nil {
			h.Created = &created
		}
		out = append(out, h)
	}
	for ; next < len(layers); next++ {
		if layers[next] != nil {
			out = append(out, ocispecs.History{
				Created: &created, CreatedBy: "created by buildkit", Comment: historyComment,
			})
		}
	}
	return out
}
