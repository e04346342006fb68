package cache

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	digest "github.com/opencontainers/go-digest"
)

// BlobPath returns the path of a blob, whether or not it exists.
func (s *Store) BlobPath(d digest.Digest) string { return s.path(dirBlobs, d.Encoded()) }

// HasBlob reports whether a blob of the given size exists; a negative size matches any. It marks the blob as used.
func (s *Store) HasBlob(d digest.Digest, size int64) bool {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return false
	}
	if err := s.gate.enter(); err != nil {
		return false
	}
	defer s.gate.leave()
	info, err := os.Lstat(s.BlobPath(d))
	return err == nil && info.Mode().IsRegular() && (size < 0 || info.Size() == size) && s.use(s.BlobPath(d))
}

// BlobWriter writes one blob and computes its digest.
type BlobWriter struct {
	store *Store
	file  *os.File
	hash  hash.Hash
	size  int64
}

// NewBlob starts a blob. End it with Commit or Discard.
func (s *Store) NewBlob() (*BlobWriter, error) {
	f, err := s.tempFile()
	if err != nil {
		return nil, wrap("create a blob in", s.tmp, err)
	}
	return &BlobWriter{store: s, file: f, hash: sha256.New()}, nil
}

// Write implements io.Writer.
func (w *BlobWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	return n, wrap("write a blob in", w.store.tmp, err)
}

// ErrMismatch is wrapped by errors about content that does not have its expected digest or size.
var ErrMismatch = errors.New("digest mismatch")

// mismatch returns an error that wraps ErrMismatch. An empty want was not compared.
func mismatch(want digest.Digest, size int64, got digest.Digest, n int64) error {
	if want != "" && got != want {
		return fmt.Errorf("%w: expected %s, got %s", ErrMismatch, want, got)
	}
	return fmt.Errorf("%w: expected %d bytes, got %d bytes of %s", ErrMismatch, size, n, got)
}

// Commit makes the blob visible by one rename and returns its digest and size. An empty want and a negative size are
// not compared. If the content differs, the blob is discarded and the error wraps ErrMismatch.
func (w *BlobWriter) Commit(want digest.Digest, size int64) (digest.Digest, int64, error) {
	got := digest.NewDigest(digest.SHA256, w.hash)
	if want != "" && got != want || size >= 0 && w.size != size {
		err := mismatch(want, size, got, w.size)
		return "", 0, errors.Join(err, w.Discard())
	}
	if w.store.HasBlob(got, w.size) {
		return got, w.size, w.Discard()
	}
	path := w.store.BlobPath(got)
	err := errors.Join(w.file.Close(), w.store.mark("blob", got))
	if err == nil {
		err = w.store.moveInto(w.file.Name(), path)
	}
	if err != nil {
		os.Remove(w.file.Name())
		return "", 0, wrap("commit blob", path, err)
	}
	w.store.added.Add(onDisk(w.size))
	return got, w.size, nil
}

// WriteBlob stores the bytes that write writes and returns their digest and size. write returns the digest and the
// size that Commit checks, or an error, and then nothing is stored.
func (s *Store) WriteBlob(
	write func(io.Writer) (want digest.Digest, size int64, err error),
) (digest.Digest, int64, error) {
	w, err := s.NewBlob()
	if err != nil {
		return "", 0, err
	}
	want, size, err := write(w)
	if err != nil {
		return "", 0, errors.Join(err, w.Discard())
	}
	return w.Commit(want, size)
}

// PutBlob stores a blob unless the store has it. It calls open, and reads from it, only for a missing blob; open itself
// may store the blob too.
func (s *Store) PutBlob(d digest.Digest, size int64, open func() (io.ReadCloser, error)) error {
	if s.HasBlob(d, size) {
		return nil
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	if s.HasBlob(d, size) {
		return nil
	}
	_, _, err = s.WriteBlob(func(w io.Writer) (digest.Digest, int64, error) {
		_, err := io.Copy(w, r)
		return d, size, err
	})
	return err
}

// PutBytes stores a small blob unless the store has it, and returns its digest.
func (s *Store) PutBytes(content []byte) (digest.Digest, error) {
	d := digest.FromBytes(content)
	return d, s.PutBlob(d, int64(len(content)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
}

// Discard removes the blob.
func (w *BlobWriter) Discard() error {
	w.file.Close()
	return wrap("discard a blob in", w.store.tmp, os.Remove(w.file.Name()))
}
