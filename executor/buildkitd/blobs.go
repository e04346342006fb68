package buildkitd

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// blobStore is the content store to which a daemon exports images. It is backed by the cache, so the daemon does not
// send blobs that the cache has.
type blobStore struct {
	unsupported // except Writer and Update
	blobs       Blobs
	mu          sync.Mutex
	fault       error // the first local error
}

// keepFault keeps the first local error, since the daemon would return its text only. It returns err.
func (s *blobStore) keepFault(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == nil {
		s.fault = err
	}
	return err
}

// cause returns the local error behind a daemon's error, if there is one.
func (s *blobStore) cause(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		return &storeError{s.fault}
	}
	return err
}

// storeError reports that the local store could not keep a blob from a daemon.
type storeError struct{ error }

// Unwrap returns the cause.
func (e *storeError) Unwrap() error { return e.error }

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
	return sized(f)
}

// sized returns an open file with its size, and closes the file on error.
func sized(f *os.File) (sizedFile, error) {
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return sizedFile{}, err
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
		return nil, s.keepFault(err)
	}
	return &blobWriter{store: s, to: w, want: o.Desc.Digest, status: content.Status{
		Ref: o.Ref, Total: o.Desc.Size, Expected: o.Desc.Digest, StartedAt: time.Now(),
	}}, nil
}

// Update implements content.Store. Blobs have no labels here.
func (s *blobStore) Update(ctx context.Context, info content.Info, _ ...string) (content.Info, error) {
	return s.Info(ctx, info.Digest)
}

// unsupported implements the methods of content.Store that daemons do not need. Those that would change the store or
// list it are refused; Status finds no transfer, and Abort has nothing to do.
type unsupported struct{}

// Walk implements content.Store: it is refused.
func (unsupported) Walk(context.Context, content.WalkFunc, ...string) error {
	return errdefs.ErrPermissionDenied
}

// Writer implements content.Store: it is refused.
func (unsupported) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errdefs.ErrPermissionDenied
}

// Update implements content.Store: it is refused.
func (unsupported) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errdefs.ErrPermissionDenied
}

// Delete implements content.Store: it is refused.
func (unsupported) Delete(context.Context, digest.Digest) error { return errdefs.ErrPermissionDenied }

// Status implements content.Store: no transfer is resumed.
func (unsupported) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errdefs.ErrNotFound
}

// ListStatuses implements content.Store: there are none.
func (unsupported) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, nil
}

// Abort implements content.Store: there is nothing to abort.
func (unsupported) Abort(context.Context, string) error { return nil }

// blobWriter receives one blob.
type blobWriter struct {
	store  *blobStore
	to     BlobWriter
	want   digest.Digest
	status content.Status
	closed bool
}

// Write implements io.Writer.
func (w *blobWriter) Write(p []byte) (int, error) {
	if w.status.Total > 0 && w.status.Offset+int64(len(p)) > w.status.Total {
		return 0, fmt.Errorf("%w: blob %s is larger than %d bytes", errdefs.ErrInvalidArgument, w.want, w.status.Total)
	}
	n, err := w.to.Write(p)
	w.status.Offset += int64(n)
	w.status.UpdatedAt = time.Now()
	if err != nil {
		return n, w.store.keepFault(err)
	}
	return n, nil
}

// Digest implements content.Writer: the expected digest.
func (w *blobWriter) Digest() digest.Digest { return w.want }

// Status implements content.Writer.
func (w *blobWriter) Status() (content.Status, error) { return w.status, nil }

// Truncate implements content.Writer. It can only confirm the current offset.
func (w *blobWriter) Truncate(size int64) error {
	if size == w.status.Offset {
		return nil
	}
	return errdefs.ErrNotImplemented
}

// Commit implements content.Writer: it makes the blob visible if its digest and size match.
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

// Close implements content.Writer: it discards the blob unless it was committed.
func (w *blobWriter) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	return w.to.Discard()
}

// readBlob reads a blob of at most maxSmall bytes, such as a manifest.
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
