package executor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/attest"
)

// artifact is the content that an output writes for one target: a single image, or an index of several manifests.
type artifact struct {
	images []v1.Image
	// attestations are the attestation manifests, one for each image or none.
	attestations []v1.Image
	index        v1.ImageIndex // nil for a single image
	desc         v1.Descriptor
	created      time.Time
}

// blob is one piece of content. It can be opened any number of times.
type blob struct {
	digest v1.Hash
	size   int64
	open   func() (io.ReadCloser, error)
}

// CorruptError reports that stored bytes do not match their digest.
type CorruptError struct {
	Digest string
	Found  string
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("blob %s is damaged: its content is %s; remove it, then build again: bake cache check --repair",
		e.Digest, e.Found)
}

// copyTo writes the whole blob to w and checks its size and digest.
func (b blob) copyTo(w io.Writer) error {
	r, err := b.open()
	if err != nil {
		return fmt.Errorf("blob %s: %w", b.digest, err)
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(r, b.size+1))
	if err != nil {
		return fmt.Errorf("blob %s: %w", b.digest, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != b.digest.Hex || n != b.size {
		return &CorruptError{Digest: b.digest.String(), Found: fmt.Sprintf("sha256:%s of %d bytes", got, n)}
	}
	return nil
}

func bytesBlob(h v1.Hash, b []byte) blob {
	return blob{h, int64(len(b)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// blobs lists all content once, each blob before those that refer to it.
func (a *artifact) blobs() ([]blob, error) {
	var out []blob
	seen := map[v1.Hash]bool{}
	add := func(b blob) {
		if !seen[b.digest] {
			seen[b.digest] = true
			out = append(out, b)
		}
	}
	for _, img := range slices.Concat(a.images, a.attestations) {
		if err := imageBlobs(img, add); err != nil {
			return nil, err
		}
	}
	if a.index != nil {
		raw, err := a.index.RawManifest()
		if err != nil {
			return nil, err
		}
		add(bytesBlob(a.desc.Digest, raw))
	}
	return out, nil
}

func imageBlobs(img v1.Image, add func(blob)) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		d, err := partial.Descriptor(l)
		if err != nil {
			return err
		}
		add(blob{d.Digest, d.Size, l.Compressed})
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	h, err := img.ConfigName()
	if err != nil {
		return err
	}
	add(bytesBlob(h, raw))
	if raw, err = img.RawManifest(); err != nil {
		return err
	}
	if h, err = img.Digest(); err != nil {
		return err
	}
	add(bytesBlob(h, raw))
	return nil
}

// newArtifact collects the images of a target. Without several manifests, there is no index: a single image gets one
// only with attestations or index annotations, or when its target is built for several platforms.
func newArtifact(
	images, attestations []v1.Image, platforms []ocispecs.Platform, several bool, o Output,
) (*artifact, error) {
	a := &artifact{images: images, attestations: attestations}
	if !several {
		d, err := partial.Descriptor(images[0])
		if err != nil {
			return nil, err
		}
		a.desc = *d
		a.desc.ArtifactType, a.desc.Annotations = "", o.Annotations.at("manifest-descriptor", &platforms[0])
		return a, nil
	}
	mediaType := types.OCIImageIndex
	if o.Docker {
		mediaType = types.DockerManifestList
	}
	idx := mutate.IndexMediaType(empty.Index, mediaType)
	if m := o.Annotations.at("index", nil); m != nil {
		idx = mutate.Annotations(idx, m).(v1.ImageIndex)
	}
	for i, img := range images {
		d, err := partial.Descriptor(img)
		if err != nil {
			return nil, err
		}
		d.ArtifactType, d.Platform = "", ggcrPlatform(platforms[i])
		d.Annotations = o.Annotations.at("manifest-descriptor", &platforms[i])
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: described{img, d}})
	}
	for i, img := range attestations {
		h, err := images[i].Digest()
		if err != nil {
			return nil, err
		}
		d, err := partial.Descriptor(img)
		if err != nil {
			return nil, err
		}
		about := attest.Descriptor(h)
		d.ArtifactType, d.Platform, d.Annotations = "", about.Platform, about.Annotations
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: described{img, d}})
	}
	a.index = idx
	d, err := partial.Descriptor(idx)
	if err != nil {
		return nil, err
	}
	a.desc = *d
	a.desc.Annotations = o.Annotations.at("index-descriptor", nil)
	return a, nil
}

// described is an image with the exact descriptor that the index has for it. go-containerregistry would add fields such
// as artifactType. Clients that write an index again drop that field, and the index would get another digest.
type described struct {
	v1.Image
	as *v1.Descriptor
}

// Descriptor returns the entry of the index.
func (d described) Descriptor() (*v1.Descriptor, error) { return d.as, nil }

// ggcrPlatform converts a platform to go-containerregistry's type.
func ggcrPlatform(p ocispecs.Platform) *v1.Platform {
	return &v1.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	}
}
