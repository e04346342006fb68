package embedded

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/registry"
)

// baseImage is the image of a source op. Its key is the resolved digest and the platform. Nothing is fetched until a
// step reads its files, runs on them, or an output ships them.
type baseImage struct {
	n        *node
	ref      string // normalised, with digest
	digest   digest.Digest
	platform ocispecs.Platform
	from     imageStore

	once   sync.Once
	loaded []*baseLayer
	err    error
}

// imageStore is the registry or layout from which an image's manifests and blobs are read.
type imageStore interface {
	// manifest reads the manifest for a platform, with its config.
	manifest(ctx context.Context, ref string, p ocispecs.Platform) (*imageManifest, error)
	// blob opens a layer blob. The caller must check its digest.
	blob(ctx context.Context, ref string, desc ocispecs.Descriptor) (io.ReadCloser, error)
}

// imageManifest is the manifest and config of an image for one platform.
type imageManifest struct {
	desc   ocispecs.Descriptor
	raw    []byte
	config []byte
}

// baseLayer is one layer of a base image.
type baseLayer struct {
	base *baseImage
	// desc describes the compressed blob.
	desc ocispecs.Descriptor
	// DiffID is the digest of the uncompressed tar. chainID is the digest of all layers up to this one. It names the
	// directory form: a directory that a layer does not list takes its attributes from the layers below.
	DiffID, chainID digest.Digest
	// below is the layer below this one, nil for the lowest.
	below *baseLayer
}

// newImageSource parses the reference of an image source.
func newImageSource(n *node, source *pb.SourceOp) (operation, error) {
	scheme, ref, _ := strings.Cut(source.GetIdentifier(), "://")
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w", ref, err)
	}
	base := &baseImage{n: n, ref: reference.TagNameOnly(named).String(), platform: platformOf(n.step.Op.GetPlatform())}
	base.from = n.b.remote()
	if scheme == "oci-layout" {
		store := source.GetAttrs()[pb.AttrOCILayoutStoreID]
		layout, ok := n.b.graph.Layouts[store]
		if !ok {
			return nil, fmt.Errorf("the graph does not define the image layout %q", store)
		}
		base.from = layoutStore{layout.Dir}
	}
	dgst, ok := named.(reference.Digested)
	if !ok {
		return nil, fmt.Errorf("image %s has no digest: the plan must resolve it", ref)
	}
	p := keys.NewParts("image")
	base.digest = dgst.Digest()
	p.Add("digest", base.digest.String())
	p.Add("platform", platforms.FormatAll(base.platform))
	if limit := source.GetAttrs()[pb.AttrImageLayerLimit]; limit != "" {
		return nil, &UnsupportedError{What: "images cut off at a layer", Instead: "use the whole image"}
	}
	n.id, n.portable = p.Key(), p.Key()
	n.result.Key = n.id
	n.outputs = []*chain{(*chain)(nil).add(&chain{base: base})}
	return base, nil
}

// platformOf returns the platform of an op; the machine's own if it has none.
func platformOf(p *pb.Platform) ocispecs.Platform {
	if p == nil {
		return platforms.Normalize(platforms.DefaultSpec())
	}
	return platforms.Normalize(ocispecs.Platform{
		OS: p.GetOS(), Architecture: p.GetArchitecture(), Variant: p.GetVariant(),
		OSVersion: p.GetOSVersion(), OSFeatures: p.GetOSFeatures(),
	})
}

// lookup, prepare and run fetch nothing: an image is fetched on demand.
func (i *baseImage) lookup(context.Context) (bool, error) {
	if i.n.result.Status == executor.StatusSkipped {
		i.n.result.Status = executor.StatusNotNeeded
	}
	return true, i.restore()
}
func (i *baseImage) prepare(context.Context) (bool, func(), error) { return true, nil, nil }
func (i *baseImage) run(context.Context) error                     { return nil }

// restore loads the entry that stores the content digests of the image's files.
func (i *baseImage) restore() error {
	e := &cache.Entry{
		ID: i.n.id, Key: i.n.id, Step: i.n.step.Digest, Name: i.n.step.Name,
		Outputs: []cache.Output{{}}, Created: time.Now().UTC(),
	}
	old, err := i.n.b.store.Lookup(i.n.id)
	if err == nil && old != nil {
		e = old
	}
	i.n.entry = e
	return err
}

// layers returns the image's layers, bottom first. The manifest is loaded once.
func (i *baseImage) layers(ctx context.Context) ([]*baseLayer, error) {
	i.once.Do(func() {
		if i.loaded, i.err = i.load(ctx); i.err != nil {
			i.err = i.n.wrap(i.err)
		}
	})
	return i.loaded, i.err
}

// load reads the manifest from the local store or, if it is missing, from the image's registry or layout.
func (i *baseImage) load(ctx context.Context) ([]*baseLayer, error) {
	m, err := i.stored(ctx)
	if err != nil {
		if m, err = i.fetch(ctx); err != nil {
			return nil, err
		}
	}
	var manifest ocispecs.Manifest
	if err := registry.UnmarshalImage(m.raw, &manifest); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", m.desc.Digest, err)
	}
	var config ocispecs.Image
	if err := registry.UnmarshalImage(m.config, &config); err != nil {
		return nil, fmt.Errorf("config of %s: %w", m.desc.Digest, err)
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, fmt.Errorf("manifest %s has %d layers, but its config lists %d",
			m.desc.Digest, len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	layers := make([]*baseLayer, len(manifest.Layers))
	for k, desc := range manifest.Layers {
		l := &baseLayer{base: i, desc: desc, DiffID: config.RootFS.DiffIDs[k]}
		if err := l.DiffID.Validate(); err != nil {
			return nil, fmt.Errorf("config of %s: %w", m.desc.Digest, err)
		}
		l.chainID = l.DiffID
		if k > 0 {
			l.below = layers[k-1]
			l.chainID = cache.ChainID(l.below.chainID, l.DiffID)
		}
		layers[k] = l
	}
	return layers, nil
}

// manifestNote is the lookup in a base's entry that records the manifest of its index for the platform.
const manifestNote = "manifest"

// stored reads the manifest that the base's entry names from the local store.
func (i *baseImage) stored(ctx context.Context) (*imageManifest, error) {
	for _, l := range i.n.entry.Lookups {
		if l.Path == manifestNote {
			return localImages{i.n.b.store}.manifest(ctx, "base@"+l.Answer, i.platform)
		}
	}
	return localImages{i.n.b.store}.manifest(ctx, i.ref, i.platform)
}

// fetch reads the manifest from the image's source, stores it, and records the base by its name.
func (i *baseImage) fetch(ctx context.Context) (_ *imageManifest, err error) {
	if i.n.b.dry {
		return nil, errOffline
	}
	i.n.begin()
	defer func() { i.n.end(err) }()
	m, err := i.from.manifest(ctx, i.ref, i.platform)
	if err != nil {
		return nil, err
	}
	for _, blob := range [][]byte{m.config, m.raw} {
		if _, err := i.n.b.store.PutBytes(blob); err != nil {
			return nil, err
		}
	}
	i.n.mu.Lock()
	i.n.entry.Lookups = []cache.Lookup{{Path: manifestNote, Answer: m.desc.Digest.String()}}
	err = i.n.b.store.Put(i.n.entry)
	i.n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return m, i.record(m.desc)
}

// record lists the base in the local store under the name by which it was requested.
func (i *baseImage) record(desc ocispecs.Descriptor) error {
	named, err := reference.ParseNormalizedNamed(i.ref)
	if err != nil {
		return err
	}
	name := named.String()
	if tagged, ok := named.(reference.Tagged); ok {
		name = reference.TrimNamed(named).String() + ":" + tagged.Tag()
	}
	return i.n.b.store.PutImages([]cache.Image{{
		Name: name, Digest: desc.Digest, MediaType: desc.MediaType, Size: desc.Size, Kind: "base",
		Recorded: time.Now().UTC(),
	}})
}
