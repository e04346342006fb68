package layers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
)

// MaxWindow bounds the memory that a hostile zstd frame can request, in bytes. Level 22 has a window of 128 MiB.
const MaxWindow = 128 << 20

// stream reads the tar in a layer blob. Reading the blob, decompressing, hashing and using the tar each run in a
// separate goroutine.
type stream struct {
	*readAhead
	hash   hash.Hash
	cancel context.CancelFunc
	closes []func()
}

// openStream detects the compression (gzip, zstd or none) from the first bytes.
func openStream(ctx context.Context, r io.Reader) (*stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{hash: sha256.New(), cancel: cancel}
	raw := newReadAhead(ctxReader{ctx, r})
	s.closes = append(s.closes, func() { raw.Close() })
	br := bufio.NewReaderSize(raw, 64<<10)
	plain, err := s.decompress(br)
	if err != nil {
		s.Close()
		return nil, err
	}
	if plain != io.Reader(br) {
		inflated := newReadAhead(plain)
		s.closes = append(s.closes, func() { inflated.Close() })
		plain = inflated
	}
	// A few bytes of the blob can unpack to gigabytes, so the context is checked behind the decoder too.
	s.readAhead = newReadAhead(ctxReader{ctx, io.TeeReader(plain, s.hash)})
	return s, nil
}

func (s *stream) decompress(br *bufio.Reader) (io.Reader, error) {
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return namedReader{"gzip", z}, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(MaxWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		s.closes = append(s.closes, z.Close)
		return namedReader{"zstd", z}, nil
	}
	return br, nil
}

// finish reads the bytes after the end of the tar, at most limit, and returns the digest of the uncompressed stream.
func (s *stream) finish(limit int64) (digest.Digest, error) {
	n, err := io.Copy(io.Discard, io.LimitReader(s, limit+1))
	if err != nil {
		return "", err
	}
	if n > limit {
		return "", fmt.Errorf("more than %d bytes after the end of the tar", limit)
	}
	return digest.NewDigest(digest.SHA256, s.hash), nil
}

// Close stops all goroutines, the last stage first.
func (s *stream) Close() error {
	s.cancel()
	if s.readAhead != nil {
		s.readAhead.Close()
	}
	for i := len(s.closes) - 1; i >= 0; i-- {
		s.closes[i]()
	}
	return nil
}

// namedReader adds the name of a decoder to its errors.
type namedReader struct {
	name string
	r    io.Reader
}

func (n namedReader) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && err != io.EOF {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return k, err
		}
		err = fmt.Errorf("%s: %w", n.name, err)
	}
	return k, err
}

// ctxReader returns an error from Read once its context is done.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
