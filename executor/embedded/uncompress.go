package embedded

import (
	"bufio"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// uncompressed returns the content of a plain, gzip or zstd stream.
func uncompressed(blob io.ReadCloser, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(blob)
	head, _ := r.Peek(4)
	switch {
	case len(head) > 1 && head[0] == 0x1f && head[1] == 0x8b:
		z, err := gzip.NewReader(r)
		if err != nil {
			_ = blob.Close()
			return nil, err
		}
		return readCloser{z, blob}, nil
	case len(head) == 4 && string(head) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(r)
		if err != nil {
			_ = blob.Close()
			return nil, err
		}
		return readCloser{z.IOReadCloser(), blob}, nil
	}
	return readCloser{r, blob}, nil
}

// readCloser reads from one value and closes another.
type readCloser struct {
	io.Reader
	io.Closer
}
