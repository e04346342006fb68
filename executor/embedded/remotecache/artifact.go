package remotecache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/registry"
)

// Artifact is a cache in a registry: an OCI manifest with its own artifact type. Its first layer is the index, the
// others are the blobs. The manifest is read from the registry to which it was written; mirrors serve only blobs.
type Artifact struct {
	Client *registry.Client
	Ref    string
}

const (
	artifactType   = "application/vnd.bake.cache.v1"
	artifactConfig = "application/vnd.bake.cache.config.v1+json"
	configText     = `{"version":1}`
	maxManifest    = 4 << 20 // bytes that registries accept
)

// String implements Source and Destination.
func (a *Artifact) String() string { return a.Ref }

// Close implements Source.
func (a *Artifact) Close() error { return nil }

var errNoClient = errors.New("this engine has no registry client")

// Index implements Source.
func (a *Artifact) Index(ctx context.Context, scratch func() (*os.File, error)) (*Catalog, error) {
	if a.Client == nil {
		return nil, errNoClient
	}
	found, err := a.Client.Artifact(ctx, a.Ref)
	if registry.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if found.Manifest.Config.MediaType != artifactConfig || len(found.Manifest.Layers) == 0 {
		return nil, errors.New("not a cache of this engine; only BuildKit reads BuildKit caches")
	}
	desc := found.Manifest.Layers[0]
	if desc.MediaType != mediaIndex || desc.Size > maxIndex {
		return nil, errDamaged
	}
	r, err := a.Client.Blob(ctx, a.Ref, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return NewCatalog(r, scratch)
}

// Open implements Source.
func (a *Artifact) Open(ctx context.Context, b Blob) (io.ReadCloser, error) {
	r, err := a.Client.Blob(ctx, a.Ref, ocispecs.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size})
	if registry.IsNotFound(err) {
		return nil, &MissingError{b.Digest, "the registry"}
	}
	return r, err
}

// Export implements Destination. A cache that is already there costs one request. Otherwise only the blobs that the
// previous cache did not have are sent.
func (a *Artifact) Export(ctx context.Context, e Export) error {
	if a.Client == nil {
		return errNoClient
	}
	index, err := e.Index.encode()
	if err != nil {
		return err
	}
	image, err := newArtifact(ctx, index, e)
	if err != nil {
		return err
	}
	there := map[digest.Digest]bool{}
	old, err := a.Client.Artifact(ctx, a.Ref)
	switch {
	case err != nil && !registry.IsNotFound(err):
		return err
	case err == nil && bytes.Equal(old.Raw, image.raw) && !e.distrusts(slices.Concat(e.Index.blobs())):
		return nil
	case err == nil:
		for _, l := range append(slices.Clone(old.Manifest.Layers), old.Manifest.Config) {
			there[l.Digest] = e.Distrust == nil || !e.Distrust(l.Digest)
		}
	}
	push := func(skip map[digest.Digest]bool) error {
		return a.Client.Push(ctx, []registry.PushImage{{Refs: []string{a.Ref}, Image: image.without(skip)}}, nil)
	}
	err = push(there)
	if err != nil && len(there) > 0 && ctx.Err() == nil {
		err = push(nil) // the registry may have removed blobs of the old cache
	}
	return err
}

// artifactImage is a cache as a v1.Image for a push. Its manifest names all blobs; Layers returns those to send.
type artifactImage struct {
	raw  []byte
	send []v1.Layer
}

// newArtifact builds the manifest.
func newArtifact(ctx context.Context, index []byte, e Export) (*artifactImage, error) {
	layers, paths, mounts := e.Index.blobs()
	indexBlob := Blob{Digest: digest.FromBytes(index), Size: int64(len(index)), MediaType: mediaIndex}
	image := &artifactImage{}
	m := ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config: ocispecs.Descriptor{
			MediaType: artifactConfig, Digest: digest.FromString(configText), Size: int64(len(configText)),
		},
	}
	for _, b := range slices.Concat([]Blob{indexBlob}, layers, paths, mounts) {
		open := func() (io.ReadCloser, error) { return e.Open(ctx, b) }
		if b.MediaType == mediaIndex {
			open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(index)), nil }
		}
		m.Layers = append(m.Layers, ocispecs.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size})
		image.send = append(image.send, &artifactLayer{b, open})
	}
	var err error
	if image.raw, err = json.Marshal(m); err != nil {
		return nil, err
	}
	if len(image.raw) > maxManifest {
		return nil, fmt.Errorf("%d blobs exceed the size of a manifest; export with mode=min or to a directory",
			len(m.Layers))
	}
	return image, nil
}

// without returns the image without the layers that need not be sent.
func (i *artifactImage) without(there map[digest.Digest]bool) *artifactImage {
	send := slices.DeleteFunc(slices.Clone(i.send), func(l v1.Layer) bool {
		return there[l.(*artifactLayer).Blob.Digest]
	})
	return &artifactImage{i.raw, send}
}

// Layers implements v1.Image.
func (i *artifactImage) Layers() ([]v1.Layer, error) { return i.send, nil }

// MediaType implements v1.Image.
func (i *artifactImage) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// Size implements v1.Image.
func (i *artifactImage) Size() (int64, error) { return int64(len(i.raw)), nil }

// ConfigName implements v1.Image.
func (i *artifactImage) ConfigName() (v1.Hash, error) { return partial.ConfigName(i) }

// ConfigFile implements v1.Image.
func (i *artifactImage) ConfigFile() (*v1.ConfigFile, error) { return partial.ConfigFile(i) }

// RawConfigFile implements v1.Image.
func (i *artifactImage) RawConfigFile() ([]byte, error) { return []byte(configText), nil }

// Digest implements v1.Image.
func (i *artifactImage) Digest() (v1.Hash, error) { return partial.Digest(i) }

// Manifest implements v1.Image.
func (i *artifactImage) Manifest() (*v1.Manifest, error) { return partial.Manifest(i) }

// RawManifest implements v1.Image.
func (i *artifactImage) RawManifest() ([]byte, error) { return i.raw, nil }

// LayerByDigest implements v1.Image.
func (i *artifactImage) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	for _, l := range i.send {
		if d, err := l.Digest(); err == nil && d == h {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no blob %s", h)
}

// LayerByDiffID implements v1.Image.
func (i *artifactImage) LayerByDiffID(h v1.Hash) (v1.Layer, error) { return i.LayerByDigest(h) }

// artifactLayer is a blob of a cache as a v1.Layer.
type artifactLayer struct {
	Blob
	open func() (io.ReadCloser, error)
}

// Digest implements v1.Layer.
func (l *artifactLayer) Digest() (v1.Hash, error) { return v1.NewHash(l.Blob.Digest.String()) }

// DiffID implements v1.Layer.
func (l *artifactLayer) DiffID() (v1.Hash, error) { return l.Digest() }

// Size implements v1.Layer.
func (l *artifactLayer) Size() (int64, error) { return l.Blob.Size, nil }

// MediaType implements v1.Layer.
func (l *artifactLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.Blob.MediaType), nil
}

// Compressed implements v1.Layer.
func (l *artifactLayer) Compressed() (io.ReadCloser, error) { return l.open() }

// Uncompressed implements v1.Layer.
func (l *artifactLayer) Uncompressed() (io.ReadCloser, error) { return l.open() }
