package executor

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

	intoto "github.com/in-toto/in-toto-golang/in_toto"
)

// files calls add with each entry of a platform's merged file system, and after them with what is attested of it: a
// statement about every regular file in a file of its own, as BuildKit writes them.
func (e *exporter) files(ctx context.Context, group []Built, b Built, o Output, add func(*tar.Header, io.Reader) error) error {
	if !attests(b.Image) {
		return readFiles(ctx, b, o.Form, add)
	}
	about := &fileSubjects{digests: map[string]string{}}
	err := readFiles(ctx, b, o.Form, func(h *tar.Header, r io.Reader) error { return about.add(h, r, add) })
	if err != nil {
		return err
	}
	docs, err := e.documents(ctx, b, nil)
	if err != nil {
		return err
	}
	for _, doc := range docs {
		if doc.inline {
			continue
		}
		if len(doc.subjects) == 0 {
			doc.subjects = about.subjects()
		}
		raw, err := doc.statement()
		if err != nil {
			return err
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, raw, "", "  "); err != nil {
			return err
		}
		name := o.AttestationPrefix + doc.file
		if several := len(group) > 1 || b.Image.MultiPlatform; several && o.folder(group, b) == "" {
			end := path.Ext(name)
			name = strings.TrimSuffix(name, end) + "." + platformFolder(b) + end
		}
		if about.digests[name] != "" {
			return fmt.Errorf("the attestation %s has the name of a file that is there already: write attestation-prefix=PREFIX", name)
		}
		about.digests[name] = doc.predicateType
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(pretty.Len()), ModTime: e.created(b)}
		if err := add(h, &pretty); err != nil {
			return err
		}
	}
	return nil
}

// created is when an image was made, as it says itself.
func (e *exporter) created(b Built) time.Time {
	if b.Image.Epoch != nil {
		return *b.Image.Epoch
	}
	return e.opt.Epoch
}

// fileSubjects are the regular files of a file system, in the order in which they came.
type fileSubjects struct {
	names   []string
	digests map[string]string // SHA-256 in hex, by name
}

// add notes the digest of a regular file that is passed on.
func (s *fileSubjects) add(h *tar.Header, r io.Reader, next func(*tar.Header, io.Reader) error) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	switch h.Typeflag {
	case tar.TypeReg:
		sum := sha256.New()
		if err := next(h, io.TeeReader(r, sum)); err != nil {
			return err
		}
		s.note(name, hex.EncodeToString(sum.Sum(nil)))
		return nil
	case tar.TypeLink:
		if was := s.digests[strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")]; was != "" {
			s.note(name, was)
		}
	}
	return next(h, r)
}

func (s *fileSubjects) note(name, sum string) {
	if s.digests[name] == "" {
		s.names = append(s.names, name)
	}
	s.digests[name] = sum
}

func (s *fileSubjects) subjects() []intoto.Subject {
	out := []intoto.Subject{}
	for _, name := range s.names {
		out = append(out, intoto.Subject{Name: name, Digest: map[string]string{"sha256": s.digests[name]}})
	}
	return out
}
