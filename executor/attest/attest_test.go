package attest

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/planner"
)

// TestAddFilesConflict: the name of an attestation must be free, whatever type of file has it.
func TestAddFilesConflict(t *testing.T) {
	source := Source{Image: &planner.Image{Provenance: &planner.Provenance{}}}
	drop := func(*tar.Header, io.Reader) error { return nil }
	for _, kind := range []byte{tar.TypeReg, tar.TypeLink, tar.TypeSymlink, tar.TypeDir, tar.TypeFifo} {
		subjects := NewFileSubjects()
		h := &tar.Header{Typeflag: kind, Name: "./provenance.json", Linkname: "other"}
		if err := subjects.Add(h, &bytes.Reader{}, drop); err != nil {
			t.Fatal(err)
		}
		err := New(time.Time{}).AddFiles(t.Context(), source, subjects, FileOptions{}, drop)
		if err == nil || !strings.Contains(err.Error(), "a file with that name exists") {
			t.Errorf("type %c: %v", kind, err)
		}
	}
}

// TestImageWithoutDigest: an image that is not resolved makes the materials incomplete and is not one of them.
func TestImageWithoutDigest(t *testing.T) {
	for _, id := range []string{"docker-image://docker.io/library/x:1",
		"docker-image://docker.io/library/x:1@sha256:1"} {
		step := &planner.Step{Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}}}
		c := &materials{}
		provenance{source: Source{Image: &planner.Image{}}}.addSource(t.Context(), c, step)
		if !c.incomplete || len(c.list) != 0 {
			t.Errorf("%s: incomplete %t, materials %v", id, c.incomplete, c.list)
		}
	}
}
