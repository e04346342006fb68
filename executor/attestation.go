package executor

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/moby/buildkit/util/attestation"
	"github.com/moby/buildkit/util/purl"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"

	"github.com/bakebuild/bake/planner"
)

const (
	maxAttestation = 80 << 20 // bytes of what a scanner writes, in all files
	maxDocuments   = 1000     // files that a scanner writes
	coreDocument   = "sbom"   // the name, before the first dot, of what is about the image itself
	unknown        = "unknown"
	// attestationArtifact is what BuildKit calls a manifest of attestations that is an artifact.
	attestationArtifact = "application/vnd.docker.attestation.manifest.v1+json"
)

// document is one statement about an image or its files, still without their digests.
type document struct {
	predicateType string
	predicate     json.RawMessage
	subjects      []intoto.Subject // empty: the image, or all of its files
	file          string           // its name beside the files of an image
	inline        bool             // it is for images only
}

// statement is the document as in-toto has it.
func (d document) statement() ([]byte, error) {
	return json.Marshal(intoto.Statement{
		StatementHeader: intoto.StatementHeader{Type: intoto.StatementInTotoV1, PredicateType: d.predicateType, Subject: d.subjects},
		Predicate:       d.predicate,
	})
}

// attests says whether anything is to be attested of an image.
func attests(image *planner.Image) bool { return image.Provenance != nil || image.SBOM != nil }

// checkAttestations finds what cannot be attested, before anything runs.
func (o Output) checkAttestations(images []*planner.Image) error {
	if !slices.ContainsFunc(images, attests) {
		return nil
	}
	for _, image := range images {
		if image.Provenance != nil {
			if _, err := parseProvenance(image.Provenance.Attrs); err != nil {
				return err
			}
		}
	}
	const without = "or build without attestations (--provenance=false --sbom=false)"
	switch {
	case o.Kind == KindDocker || o.Kind == KindLoad:
		return fmt.Errorf("type=docker holds no attestations: use type=oci or a registry, %s", without)
	case o.isImage() && o.Docker:
		return fmt.Errorf("attestations need oci-mediatypes=true: remove oci-mediatypes=false, %s", without)
	}
	return nil
}

// attest makes the manifest with what is attested of one image, as BuildKit writes it.
func (e *exporter) attest(ctx context.Context, b Built, image v1.Image, o Output) (v1.Image, error) {
	layers, err := descriptors(image)
	if err != nil {
		return nil, err
	}
	docs, err := e.documents(ctx, b, layers)
	if err != nil {
		return nil, err
	}
	self, err := subjects(o.Names, b.Image.Platform, image)
	if err != nil {
		return nil, err
	}
	a := &assembled{layers: map[v1.Hash]partial.CompressedLayer{}}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{}}
	var content []digest.Digest
	for _, doc := range docs {
		if len(doc.subjects) == 0 {
			doc.subjects = self
		}
		raw, err := doc.statement()
		if err != nil {
			return nil, err
		}
		l := statement{raw}
		h, _ := l.Digest()
		a.layers[h] = l
		m.Layers = append(m.Layers, v1.Descriptor{
			MediaType: intoto.PayloadType, Digest: h, Size: int64(len(raw)),
			Annotations: map[string]string{"in-toto.io/predicate-type": doc.predicateType},
		})
		content = append(content, digest.Digest(h.String()))
	}
	if o.AttestAsImage {
		m.Config.MediaType = types.OCIConfigJSON
		a.config, err = json.Marshal(ocispecs.Image{
			Platform: ocispecs.Platform{OS: unknown, Architecture: unknown}, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: content},
		})
	} else {
		a.config = ocispecs.DescriptorEmptyJSON.Data
		m.Config.MediaType, m.Config.Data, m.ArtifactType = ocispecs.MediaTypeEmptyJSON, a.config, attestationArtifact
		m.Subject, err = partial.Descriptor(image)
		if err == nil {
			m.Subject.ArtifactType = ""
		}
	}
	if err != nil {
		return nil, err
	}
	if m.Config.Digest, m.Config.Size, err = v1.SHA256(bytes.NewReader(a.config)); err != nil {
		return nil, err
	}
	if a.manifest, err = json.Marshal(m); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(a)
}

// statement is one in-toto statement as a layer, which is not compressed.
type statement struct{ raw []byte }

// Digest implements partial.CompressedLayer.
func (s statement) Digest() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(s.raw))
	return h, err
}

// Compressed implements partial.CompressedLayer.
func (s statement) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s.raw)), nil
}

// Size implements partial.CompressedLayer.
func (s statement) Size() (int64, error) { return int64(len(s.raw)), nil }

// MediaType implements partial.CompressedLayer.
func (s statement) MediaType() (types.MediaType, error) { return intoto.PayloadType, nil }

// subjects names an image under each of its names.
func subjects(names []string, p ocispecs.Platform, image v1.Image) ([]intoto.Subject, error) {
	h, err := image.Digest()
	if err != nil {
		return nil, err
	}
	out := []intoto.Subject{}
	for _, n := range names {
		url, err := purl.RefToPURL(packageurl.TypeDocker, n, &p)
		if err != nil {
			return nil, err
		}
		out = append(out, intoto.Subject{Name: url, Digest: map[string]string{h.Algorithm: h.Hex}})
	}
	return out, nil
}

// documents are the statements about an image: what its scanner found, then how it was made. What the scanner found is
// read once for all outputs. layers are those of the image, none where only its files are written.
func (e *exporter) documents(ctx context.Context, b Built, layers []ocispecs.Descriptor) ([]document, error) {
	var docs []document
	if b.Image.SBOM != nil {
		found, ok := e.scans[b.Image]
		if !ok {
			var err error
			if found, err = readScan(ctx, b); err != nil {
				return nil, fmt.Errorf("SBOM of %s: %w", b.Image.Target, err)
			}
			e.scans[b.Image] = found
		}
		docs = append(docs, found...)
	}
	if b.Image.Provenance == nil {
		return docs, nil
	}
	o, err := parseProvenance(b.Image.Provenance.Attrs)
	if err != nil {
		return nil, err
	}
	how := maker{built: b, steps: stepsOf(b.Image.Root), invocation: e.invocation, started: e.opt.Started}
	if b.Image.SBOM != nil {
		how.scanned = stepsOf(*b.Image.SBOM)
	}
	predicate, err := how.predicate(ctx, o, layers)
	return append(docs, document{predicateType: o.predicateType(), predicate: predicate, file: o.file, inline: o.inline}), err
}

// descriptors are those of an image's layers.
func descriptors(image v1.Image) ([]ocispecs.Descriptor, error) {
	m, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	var layers []ocispecs.Descriptor
	for _, l := range m.Layers {
		layers = append(layers, ocispecs.Descriptor{MediaType: string(l.MediaType), Digest: digest.Digest(l.Digest.String()), Size: l.Size})
	}
	return layers, nil
}

// readScan reads the statements that a scanner left in its directory: the one about the image first.
func readScan(ctx context.Context, b Built) ([]document, error) {
	if b.Tree == nil {
		return nil, errors.New("this engine does not give out what the scanner wrote")
	}
	r, w := io.Pipe()
	defer r.Close()
	go func() { w.CloseWithError(b.Tree(ctx, *b.Image.SBOM, w)) }()
	var core, extra []document
	left := int64(maxAttestation)
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" {
			continue // the directory itself
		}
		if left -= h.Size; h.Typeflag != tar.TypeReg || left < 0 || len(core)+len(extra) >= maxDocuments {
			return nil, fmt.Errorf("the scanner left %s, which is no regular file, or more than %d files or %d bytes", name, maxDocuments, maxAttestation)
		}
		doc, err := decodeStatement(t)
		if err != nil {
			return nil, fmt.Errorf("%s of the scanner: %w", name, err)
		}
		doc.file = path.Base(name)
		if before, _, _ := strings.Cut(name, "."); before == coreDocument {
			core = append(core, doc)
		} else {
			extra = append(extra, doc)
		}
	}
	if len(core)+len(extra) == 0 {
		return nil, errors.New("the scanner wrote nothing: it should leave in-toto statements in $BUILDKIT_SCAN_DESTINATION")
	}
	return append(core, extra...), nil
}

// decodeStatement reads one in-toto statement about SPDX.
func decodeStatement(r io.Reader) (document, error) {
	var s struct {
		PredicateType string           `json:"predicateType"`
		Subject       []intoto.Subject `json:"subject"`
		Predicate     json.RawMessage  `json:"predicate"`
	}
	d := json.NewDecoder(r)
	if err := d.Decode(&s); err != nil {
		return document{}, fmt.Errorf("it is no in-toto statement: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return document{}, errors.New("it is no in-toto statement: something follows it")
	}
	if s.PredicateType != intoto.PredicateSPDX {
		return document{}, fmt.Errorf("its predicate is of type %q, not %s", s.PredicateType, intoto.PredicateSPDX)
	}
	return document{predicateType: s.PredicateType, predicate: s.Predicate, subjects: s.Subject}, nil
}

// attestationOf describes a manifest of attestations in the index beside the image that it is about.
func attestationOf(target v1.Hash) v1.Descriptor {
	return v1.Descriptor{
		Platform: &v1.Platform{OS: unknown, Architecture: unknown},
		Annotations: map[string]string{
			attestation.DockerAnnotationReferenceType:   attestation.DockerAnnotationReferenceTypeDefault,
			attestation.DockerAnnotationReferenceDigest: target.String(),
		},
	}
}
