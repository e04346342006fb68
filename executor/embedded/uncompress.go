package embedded

import (
	"bufio"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/bakebuild/bake/executor/embedded/layers"
)

// uncompressed returns the content of a plain, gzip or zstd stream.
func uncompressed(blob io.ReadCloser, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(blob)
	switch algorithmOf(r) {
	case layers.Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			_ = blob.Close()
			return nil, err
		}
		return readCloser{z, blob}, nil
	case layers.Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(layers.MaxWindow))
		if err != nil {
			_ = blob.Close()
			return nil, err
		}
		return readCloser{z.IOReadCloser(), blob}, nil
	}
	return readCloser{r, blob}, nil
}

// algorithmOf returns the compression of a stream, by its first bytes.
func algorithmOf(r *bufio.Reader) layers.Algorithm {
	head, _ := r.Peek(4) // a shorter stream is not compressed; the reader sees the error again
	switch {
	case len(head) > 1 && head[0] == 0x1f && head[1] == 0x8b:
		return layers.Gzip
	case len(head) == 4 && string(head) == "\x28\xb5\x2f\xfd":
		return layers.Zstd
	}
	return layers.Uncompressed
}

// readCloser reads from one value and closes another.
type readCloser struct {
	io.Reader
	io.Closer
}
