package buildkitd

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// blobStore shows the blobs of the cache as the content store that a daemon puts images into: what is there already is
// not sent again.
type blobStore struct{ blobs Blobs }

// Info implements content.Store.
func (s *blobStore) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	if !s.blobs.HasBlob(d, -1) {
		return content.Info{}, errdefs.ErrNotFound
	}
	info, err := os.Stat(s.blobs.BlobPath(d))
	if err != nil {
		return content.Info{}, errdefs.ErrNotFound
	}
	return content.Info{Digest: d, Size: info.Size(), CreatedAt: info.ModTime(), UpdatedAt: info.ModTime()}, nil
}

// ReaderAt implements content.Store.
func (s *blobStore) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	if !s.blobs.HasBlob(desc.Digest, -1) {
		return nil, errdefs.ErrNotFound
	}
	f, err := os.Open(s.blobs.BlobPath(desc.Digest))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return sizedFile{f, info.Size()}, nil
}

type sizedFile struct {
	*os.File
	size int64
}

// Size implements content.ReaderAt.
func (f sizedFile) Size() int64 { return f.size }

// Writer implements content.Store.
func (s *blobStore) Writer(_ context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if o.Desc.Digest != "" && s.blobs.HasBlob(o.Desc.Digest, -1) {
		return nil, errdefs.ErrAlreadyExists
	}
	w, err := s.blobs.NewBlob()
	if err != nil {
		return nil, err
	}
	return &blobWriter{to: w, want: o.Desc.Digest, status: content.Status{
		Ref: o.Ref, Total: o.Desc.Size, Expected: o.Desc.Digest, StartedAt: time.Now(),
	}}, nil
}

// Update implements content.Store: blobs have no labels here.
func (s *blobStore) Update(ctx context.Context, info content.Info, _ ...string) (content.Info, error) {
	return s.Info(ctx, info.Digest)
}

// Walk, Delete, Status, ListStatuses and Abort are not for daemons.
func (s *blobStore) Walk(context.Context, content.WalkFunc, ...string) error {
	return errdefs.ErrPermissionDenied
}

// Delete is refused.
func (s *blobStore) Delete(context.Context, digest.Digest) error { return errdefs.ErrPermissionDenied }

// Status knows no transfer: each begins anew.
func (s *blobStore) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errdefs.ErrNotFound
}

// ListStatuses lists nothing.
func (s *blobStore) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, nil
}

// Abort has nothing to end.
func (s *blobStore) Abort(context.Context, string) error { return nil }

// blobWriter is one transfer.
type blobWriter struct {
	to     BlobWriter
	want   digest.Digest
	status content.Status
	closed bool
}

// Write implements io.Writer.
func (w *blobWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	w.status.Offset += int64(n)
	w.status.UpdatedAt = time.Now()
	return n, err
}

// Digest is what the blob should be.
func (w *blobWriter) Digest() digest.Digest { return w.want }

// Status implements content.Writer.
func (w *blobWriter) Status() (content.Status, error) { return w.status, nil }

// Truncate implements content.Writer for a transfer that has not begun.
func (w *blobWriter) Truncate(size int64) error {
	if size == w.status.Offset {
		return nil
	}
	return errdefs.ErrNotImplemented
}

// Commit makes the blob visible if it is what it should be.
func (w *blobWriter) Commit(_ context.Context, size int64, want digest.Digest, _ ...content.Opt) error {
	w.closed = true
	if want == "" {
		want = w.want
	}
	if size == 0 {
		size = -1
	}
	_, _, err := w.to.Commit(want, size)
	return err
}

// Close drops the blob unless it was committed.
func (w *blobWriter) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	return w.to.Discard()
}

// readBlob reads a small blob, such as a manifest.
func readBlob(blobs Blobs, desc ocispecs.Descriptor) ([]byte, error) {
	if desc.Size > maxSmall {
		return nil, errTooLarge
	}
	if !blobs.HasBlob(desc.Digest, desc.Size) {
		return nil, os.ErrNotExist
	}
	f, err := os.Open(blobs.BlobPath(desc.Digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSmall))
}
