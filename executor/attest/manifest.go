package attest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/moby/buildkit/util/attestation"
	"github.com/moby/buildkit/util/purl"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"
)

const (
	unknown = "unknown"
	// artifactType is the type that BuildKit gives an attestation manifest that is an artifact.
	artifactType = "application/vnd.docker.attestation.manifest.v1+json"
)

// ManifestOptions describes how an attestation manifest is written.
type ManifestOptions struct {
	Names []string // normalised references of the image, its subjects
	// AsImage gives the manifest an image config. Without it the manifest is an artifact whose subject is the image.
	AsImage bool
}

// Manifest returns the attestation manifest of one image: its layers are the uncompressed in-toto statements.
func (a *Attester) Manifest(ctx context.Context, s Source, image v1.Image, opt ManifestOptions) (v1.Image, error) {
	layers, err := descriptors(image)
	if err != nil {
		return nil, err
	}
	docs, err := a.documents(ctx, s, layers)
	if err != nil {
		return nil, err
	}
	self, err := imageSubjects(opt.Names, s.Image.Platform, image)
	if err != nil {
		return nil, err
	}
	c := &attestationManifest{layers: map[v1.Hash]partial.CompressedLayer{}}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{}}
	for _, doc := range docs {
		if len(doc.subjects) == 0 {
			doc.subjects = self
		}
		d, err := c.add(doc)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, d)
	}
	if err := c.addConfig(&m, image, opt.AsImage); err != nil {
		return nil, err
	}
	if c.manifest, err = json.Marshal(m); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(c)
}

// Descriptor returns the platform and annotations of an attestation manifest in the index that also lists its image.
func Descriptor(image v1.Hash) v1.Descriptor {
	return v1.Descriptor{
		Platform: &v1.Platform{OS: unknown, Architecture: unknown},
		Annotations: map[string]string{
			attestation.DockerAnnotationReferenceType:   attestation.DockerAnnotationReferenceTypeDefault,
			attestation.DockerAnnotationReferenceDigest: image.String(),
		},
	}
}

// attestationManifest is an attestation manifest with its blobs; it implements partial.CompressedImageCore.
type attestationManifest struct {
	config   []byte
	manifest []byte
	layers   map[v1.Hash]partial.CompressedLayer
}

// add makes a document a layer and returns its descriptor.
func (c *attestationManifest) add(doc document) (v1.Descriptor, error) {
	raw, err := doc.statement()
	if err != nil {
		return v1.Descriptor{}, err
	}
	l := static.NewLayer(raw, intoto.PayloadType)
	h, err := l.Digest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	c.layers[h] = l
	return v1.Descriptor{
		MediaType: intoto.PayloadType, Digest: h, Size: int64(len(raw)),
		Annotations: map[string]string{"in-toto.io/predicate-type": doc.predicateType},
	}, nil
}

// addConfig completes the manifest: as an image, or as an artifact about image.
func (c *attestationManifest) addConfig(m *v1.Manifest, image v1.Image, asImage bool) (err error) {
	if asImage {
		var content []digest.Digest
		for _, l := range m.Layers {
			content = append(content, digest.Digest(l.Digest.String()))
		}
		m.Config.MediaType = types.OCIConfigJSON
		c.config, err = json.Marshal(ocispecs.Image{
			Platform: ocispecs.Platform{OS: unknown, Architecture: unknown},
			RootFS:   ocispecs.RootFS{Type: "layers", DiffIDs: content},
		})
	} else {
		c.config = ocispecs.DescriptorEmptyJSON.Data
		m.Config.MediaType, m.Config.Data, m.ArtifactType = ocispecs.MediaTypeEmptyJSON, c.config, artifactType
		if m.Subject, err = partial.Descriptor(image); err == nil {
			m.Subject.ArtifactType = ""
		}
	}
	if err != nil {
		return err
	}
	m.Config.Digest, m.Config.Size, err = v1.SHA256(bytes.NewReader(c.config))
	return err
}

// RawConfigFile implements partial.CompressedImageCore.
func (c *attestationManifest) RawConfigFile() ([]byte, error) { return c.config, nil }

// RawManifest implements partial.CompressedImageCore.
func (c *attestationManifest) RawManifest() ([]byte, error) { return c.manifest, nil }

// MediaType implements partial.CompressedImageCore.
func (c *attestationManifest) MediaType() (types.MediaType, error) {
	return types.OCIManifestSchema1, nil
}

// LayerByDigest implements partial.CompressedImageCore.
func (c *attestationManifest) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if l := c.layers[h]; l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("attestation manifest has no layer %s", h)
}

// imageSubjects returns one subject for each name of an image.
func imageSubjects(names []string, p ocispecs.Platform, image v1.Image) ([]subject, error) {
	h, err := image.Digest()
	if err != nil {
		return nil, err
	}
	out := []subject{} // in JSON, [] and not null
	for _, n := range names {
		url, err := purl.RefToPURL(packageurl.TypeDocker, n, &p)
		if err != nil {
			return nil, err
		}
		out = append(out, subject{Name: url, Digest: map[string]string{h.Algorithm: h.Hex}})
	}
	return out, nil
}

// descriptors returns the descriptors of an image's layers.
func descriptors(image v1.Image) ([]ocispecs.Descriptor, error) {
	m, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	var layers []ocispecs.Descriptor
	for _, l := range m.Layers {
		layers = append(layers, ocispecs.Descriptor{
			MediaType: string(l.MediaType), Digest: digest.Digest(l.Digest.String()), Size: l.Size,
		})
	}
	return layers, nil
}
