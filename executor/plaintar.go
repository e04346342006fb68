package executor

import (
	"archive/tar"
	"bytes"
	"io"
	"time"
)

// plainTar writes tars without owners and times, so that equal contents have equal bytes. It keeps the first error.
type plainTar struct {
	w   *tar.Writer
	err error
}

func newPlainTar(w io.Writer) *plainTar { return &plainTar{w: tar.NewWriter(w)} }

func (t *plainTar) header(h tar.Header) {
	if t.err == nil {
		h.ModTime, h.Format = time.Unix(0, 0), tar.FormatPAX
		t.err = t.w.WriteHeader(&h)
	}
}

func (t *plainTar) dir(name string) {
	t.header(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755})
}

func (t *plainTar) blob(name string, b blob) {
	t.header(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: b.size})
	if t.err == nil {
		t.err = b.copyTo(t.w)
	}
}

func (t *plainTar) bytes(name string, b []byte) {
	t.header(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: int64(len(b))})
	if t.err == nil {
		_, t.err = io.Copy(t.w, bytes.NewReader(b))
	}
}

func (t *plainTar) close() error {
	if t.err != nil {
		return t.err
	}
	return t.w.Close()
}
