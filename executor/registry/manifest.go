package registry

import (
	"encoding/json"
	"fmt"
	"mime"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of what is read from a registry.
const (
	maxManifest = 4 << 20 // bytes of a manifest or index
	maxConfig   = 8 << 20 // bytes of an image config
	maxNesting  = 4       // indexes in indexes
	maxTried    = 16      // manifests read in search of a platform
	maxLayers   = 1000    // layers of an image
)

// accepted returns the media types of manifests that the client accepts.
func accepted() []string {
	return []string{
		string(types.OCIManifestSchema1), string(types.OCIImageIndex),
		string(types.DockerManifestSchema2), string(types.DockerManifestList),
	}
}

// document is a manifest or an index.
type document struct {
	raw       []byte
	digest    digest.Digest
	mediaType string
	isIndex   bool
	manifest  ocispecs.Manifest
	index     ocispecs.Index
}

// parseDocument parses a manifest or index. header is its Content-Type. It rejects text that could be read as both,
// and text whose own media type contradicts the header. Otherwise two tools could read different images from one
// digest.
func parseDocument(raw []byte, header string) (*document, error) {
	var shape struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := UnmarshalImage(raw, &shape); err != nil {
		return nil, contentf("its manifest is not valid JSON: %s", err)
	}
	header, _, _ = mime.ParseMediaType(header)
	kind := types.MediaType(header)
	if !kind.IsIndex() && !kind.IsImage() && !kind.IsSchema1() {
		kind = types.MediaType(shape.MediaType)
	}
	if kind.IsSchema1() || shape.SchemaVersion == 1 || shape.FSLayers != nil {
		return nil, contentf("it is stored in Docker's schema 1 format, which is obsolete and not supported: pull " +
			"and push it again with a current tool")
	}
	d := &document{raw: raw, digest: digest.FromBytes(raw)}
	switch {
	case shape.Manifests != nil && (shape.Layers != nil || shape.Config != nil):
		return nil, contentf("its manifest could be read both as an image and as an index")
	case shape.Manifests != nil:
		d.isIndex = true
	case shape.Config == nil:
		return nil, contentf("what is stored under this name is neither an image nor an index of images")
	}
	d.mediaType = d.settle(kind, shape.MediaType)
	if types.MediaType(d.mediaType).IsIndex() != d.isIndex || shape.MediaType != "" && shape.MediaType != d.mediaType {
		return nil, contentf("its manifest states the media type %q, but is sent as %q", shape.MediaType, header)
	}
	into := any(&d.manifest)
	if d.isIndex {
		into = &d.index
	}
	if err := UnmarshalImage(raw, into); err != nil {
		return nil, contentf("its manifest is not valid: %s", err)
	}
	return d, d.check()
}

// settle returns the media type: that of the header or body if it is one of an image or index, else one by content.
func (d *document) settle(kind types.MediaType, own string) string {
	switch {
	case kind.IsIndex() || kind.IsImage():
		return string(kind)
	case own != "":
		return own
	case d.isIndex:
		return ocispecs.MediaTypeImageIndex
	}
	return ocispecs.MediaTypeImageManifest
}

func (d *document) check() error {
	if d.isIndex {
		for _, m := range d.index.Manifests {
			if err := checkDescriptor(m); err != nil {
				return err
			}
		}
		return nil
	}
	if len(d.manifest.Layers) > maxLayers {
		return contentf("it has %d layers, more than %d", len(d.manifest.Layers), maxLayers)
	}
	if d.manifest.Config.Size > maxConfig {
		return contentf("its config is %d bytes, more than %d", d.manifest.Config.Size, maxConfig)
	}
	for _, l := range append([]ocispecs.Descriptor{d.manifest.Config}, d.manifest.Layers...) {
		if err := checkDescriptor(l); err != nil {
			return err
		}
	}
	return nil
}

func checkDescriptor(d ocispecs.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return contentf("its manifest has an invalid digest %q", d.Digest)
	}
	if d.Size < 0 {
		return contentf("its manifest has a negative size for %s", d.Digest)
	}
	return nil
}

// choose returns the entries of an index to try for a platform: matching ones, best first, then those without a
// platform, which must be read. Attestations and other artifacts are skipped.
func choose(index ocispecs.Index, p ocispecs.Platform) []ocispecs.Descriptor {
	match := platforms.Only(p)
	var fit, unknown []ocispecs.Descriptor
	for _, m := range index.Manifests {
		if kind := types.MediaType(m.MediaType); !kind.IsImage() && !kind.IsIndex() {
			continue
		}
		switch {
		case m.Platform == nil:
			unknown = append(unknown, m)
		case match.Match(*m.Platform):
			fit = append(fit, m)
		}
	}
	sort.SliceStable(fit, func(i, j int) bool { return match.Less(*fit[i].Platform, *fit[j].Platform) })
	return append(fit, unknown...)
}

// available lists the platforms of an index, for messages.
func available(index ocispecs.Index) string {
	var names []string
	for _, m := range index.Manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" {
			continue
		}
		if name := clean(platforms.Format(*m.Platform)); !slices.Contains(names, name) && len(names) < 16 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "it lists no platforms"
	}
	return "it has " + strings.Join(names, ", ")
}

// platformError returns the error for an index without an image for a platform.
func platformError(p ocispecs.Platform, index ocispecs.Index) error {
	return &platformMissing{fmt.Sprintf("there is no image for %s: %s", platforms.FormatAll(p), available(index))}
}

type platformMissing struct{ text string }

func (e *platformMissing) Error() string { return e.text }

// layersOf pairs the layers of a manifest with the diff IDs in its config.
func layersOf(m ocispecs.Manifest, config []byte) ([]Layer, ocispecs.Image, error) {
	var image ocispecs.Image
	if err := UnmarshalImage(config, &image); err != nil {
		return nil, image, contentf("its config is not that of a container image: %s", err)
	}
	if len(image.RootFS.DiffIDs) != len(m.Layers) {
		return nil, image, contentf("it is not a container image that can be used: its manifest has %d layers and "+
			"its config %d", len(m.Layers), len(image.RootFS.DiffIDs))
	}
	layers := make([]Layer, len(m.Layers))
	for k, l := range m.Layers {
		diff := image.RootFS.DiffIDs[k]
		if err := diff.Validate(); err != nil {
			return nil, image, contentf("its config has an invalid layer digest %q", diff)
		}
		layers[k] = Layer{Digest: l.Digest, Size: l.Size, DiffID: diff, MediaType: l.MediaType, URLs: l.URLs}
	}
	return layers, image, nil
}
