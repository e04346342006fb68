package attest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// FileOptions describes how attestations are written among the files of an image.
type FileOptions struct {
	Prefix string // of each name
	Suffix string // before the extension of each name, after a dot; "" adds none
	Time   time.Time
}

// AddFiles calls add with each attestation of an image as a file: a statement whose subjects are the files in subjects,
// as BuildKit writes it. An attestation with the name of a file, link or directory of the image is an error.
func (a *Attester) AddFiles(
	ctx context.Context, s Source, subjects *FileSubjects, opt FileOptions, add func(*tar.Header, io.Reader) error,
) error {
	docs, err := a.documents(ctx, s, nil)
	if err != nil {
		return err
	}
	for _, doc := range docs {
		if doc.inline {
			continue
		}
		if len(doc.subjects) == 0 {
			doc.subjects = subjects.list()
		}
		raw, err := doc.statement()
		if err != nil {
			return err
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, raw, "", "  "); err != nil {
			return err
		}
		name := opt.Prefix + doc.file
		if opt.Suffix != "" {
			ext := path.Ext(name)
			name = strings.TrimSuffix(name, ext) + "." + opt.Suffix + ext
		}
		if subjects.used[name] {
			return fmt.Errorf("attestation %s: a file with that name exists; set attestation-prefix=PREFIX", name)
		}
		subjects.used[name] = true
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(pretty.Len()), ModTime: opt.Time}
		if err := add(h, &pretty); err != nil {
			return err
		}
	}
	return nil
}

// FileSubjects collects the regular files of a file system and their digests while the files are written. The zero
// value is not usable: use NewFileSubjects.
type FileSubjects struct {
	names   []string          // of regular files, in the order of the tar
	digests map[string]string // of regular files: SHA-256 in hex, by name
	used    map[string]bool   // every name in the tar, and those of the attestations
}

// NewFileSubjects returns an empty collection.
func NewFileSubjects() *FileSubjects {
	return &FileSubjects{digests: map[string]string{}, used: map[string]bool{}}
}

// Add passes a tar entry on to next and records its name and the digest of its content.
func (s *FileSubjects) Add(h *tar.Header, r io.Reader, next func(*tar.Header, io.Reader) error) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	s.used[name] = true
	switch h.Typeflag {
	case tar.TypeReg:
		sum := sha256.New()
		if err := next(h, io.TeeReader(r, sum)); err != nil {
			return err
		}
		s.note(name, hex.EncodeToString(sum.Sum(nil)))
		return nil
	case tar.TypeLink:
		if d := s.digests[strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")]; d != "" {
			s.note(name, d)
		}
	}
	return next(h, r)
}

func (s *FileSubjects) note(name, sum string) {
	if s.digests[name] == "" {
		s.names = append(s.names, name)
	}
	s.digests[name] = sum
}

func (s *FileSubjects) list() []subject {
	out := []subject{}
	for _, name := range s.names {
		out = append(out, subject{Name: name, Digest: map[string]string{"sha256": s.digests[name]}})
	}
	return out
}
