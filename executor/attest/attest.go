// Package attest makes the attestations of images: the SBOM that a scanner wrote, and the provenance of the build.
// Their bytes are those that BuildKit writes.
//
// Of this module it may import the planner only. The executor calls it and decides where the attestations go.
package attest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	intoto "github.com/in-toto/in-toto-golang/in_toto"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/planner"
)

// Source is the engine's view of one built image: what the attestations of the image are made from.
type Source struct {
	Image *planner.Image
	// Tree writes the file system of an edge of the graph as one tar. The SBOM is read with it; nil is an error then.
	Tree func(ctx context.Context, e planner.Edge, w io.Writer) error
	// Resolved returns the commit of a git source or the digest of an http source, "" when the engine does not know it.
	// It may be nil.
	Resolved func(ctx context.Context, s *planner.Step) string
	// Claim returns the remote cache that claims the result of a step, "" if the step ran here. It may be nil.
	Claim func(s *planner.Step) string
}

// Requested reports whether an image has any attestation.
func Requested(image *planner.Image) bool { return image.Provenance != nil || image.SBOM != nil }

// Check reports an error in the attributes of an image's attestations. It needs nothing built.
func Check(image *planner.Image) error {
	if image.Provenance == nil {
		return nil
	}
	_, err := parseProvenance(image.Provenance.Attrs)
	return err
}

// Attester makes the attestations of one build. It reads each SBOM once, however many outputs contain it. Several
// goroutines may use it.
type Attester struct {
	invocation string // names the build in provenance
	started    time.Time

	mu    sync.Mutex // held while an SBOM is read
	sboms map[*planner.Image][]document
}

// New returns an Attester for a build that began at started.
func New(started time.Time) *Attester {
	return &Attester{invocation: rand.Text(), started: started, sboms: map[*planner.Image][]document{}}
}

// document is one statement about an image or its files. Its subjects are added when they are known.
type document struct {
	predicateType string
	predicate     json.RawMessage
	subjects      []subject // empty: the image, or all of its files
	file          string    // name of the document among the files of an image
	inline        bool      // the document is for images only
}

// subject names one thing that a statement is about.
type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"` // hex, by algorithm
}

// statement returns the in-toto statement as JSON. Its encoding must not change: the digest of an SBOM depends
// on it. in-toto's protobuf types order the fields differently and encode the predicate again.
func (d document) statement() ([]byte, error) {
	return json.Marshal(struct {
		Type          string          `json:"_type"`
		PredicateType string          `json:"predicateType"`
		Subject       []subject       `json:"subject"`
		Predicate     json.RawMessage `json:"predicate"`
	}{intoto.StatementInTotoV1, d.predicateType, d.subjects, d.predicate})
}

// documents returns the statements about an image: its SBOM, then its provenance. layers are those of the image, nil
// where only its files are written.
func (a *Attester) documents(ctx context.Context, s Source, layers []ocispecs.Descriptor) ([]document, error) {
	var docs []document
	if s.Image.SBOM != nil {
		found, err := a.sbom(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("SBOM of %s: %w", s.Image.Target, err)
		}
		docs = append(docs, found...)
	}
	if s.Image.Provenance == nil {
		return docs, nil
	}
	o, err := parseProvenance(s.Image.Provenance.Attrs)
	if err != nil {
		return nil, err
	}
	p := provenance{source: s, steps: stepsOf(s.Image.Root), invocation: a.invocation, started: a.started}
	if s.Image.SBOM != nil {
		p.scanner = stepsOf(*s.Image.SBOM)
	}
	predicate, err := p.predicate(ctx, o, layers)
	doc := document{predicateType: o.predicateType(), predicate: predicate, file: o.file, inline: o.inline}
	return append(docs, doc), err
}

// sbom returns the documents that the scanner wrote about an image.
func (a *Attester) sbom(ctx context.Context, s Source) ([]document, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if found, ok := a.sboms[s.Image]; ok {
		return found, nil
	}
	if s.Tree == nil {
		return nil, errors.New("this engine does not provide the scanner's files")
	}
	found, err := readSBOM(ctx, s)
	if err == nil {
		a.sboms[s.Image] = found
	}
	return found, err
}
