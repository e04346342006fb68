package attest

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	intoto "github.com/in-toto/in-toto-golang/in_toto"
)

const (
	maxSBOM      = 80 << 20 // bytes of all files that a scanner writes
	maxDocuments = 1000     // files that a scanner writes
	// coreDocument is the name, up to the first dot, of the document about the image itself.
	coreDocument = "sbom"
)

// readSBOM reads the statements from the scanner's output directory, the one about the image itself first.
func readSBOM(ctx context.Context, s Source) ([]document, error) {
	r, w := io.Pipe()
	defer r.Close()
	go func() { w.CloseWithError(s.Tree(ctx, *s.Image.SBOM, w)) }()
	var core, extra []document
	left := int64(maxSBOM)
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
			return nil, fmt.Errorf("the scanner wrote %s, which is not a regular file, "+
				"or more than %d files or %d bytes", name, maxDocuments, maxSBOM)
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
		return nil, errors.New("the scanner wrote nothing: " +
			"it must write in-toto statements to $BUILDKIT_SCAN_DESTINATION")
	}
	return append(core, extra...), nil
}

// decodeStatement reads one in-toto statement whose predicate is an SPDX document.
func decodeStatement(r io.Reader) (document, error) {
	var s struct {
		PredicateType string          `json:"predicateType"`
		Subject       []subject       `json:"subject"`
		Predicate     json.RawMessage `json:"predicate"`
	}
	d := json.NewDecoder(r)
	if err := d.Decode(&s); err != nil {
		return document{}, fmt.Errorf("not an in-toto statement: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return document{}, errors.New("not an in-toto statement: more data follows it")
	}
	if s.PredicateType != intoto.PredicateSPDX {
		return document{}, fmt.Errorf("predicate type is %q, expected %s", s.PredicateType, intoto.PredicateSPDX)
	}
	return document{predicateType: s.PredicateType, predicate: s.Predicate, subjects: s.Subject}, nil
}
