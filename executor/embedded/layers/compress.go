package layers

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Algorithm is how a layer blob is compressed.
type Algorithm string

// The algorithms, named as in the compression attribute of an output.
const (
	Gzip         Algorithm = "gzip"
	Zstd         Algorithm = "zstd"
	Uncompressed Algorithm = "uncompressed"
)

// gzipBlock is the number of input bytes that gzip compresses as one block. The block size determines the output:
// changing it changes the digest of every layer.
const gzipBlock = 1 << 20

// Compression is the compression of a layer blob. The zero value is gzip at its default level.
type Compression struct {
	Algorithm Algorithm
	Level     int // 0: the algorithm's default; gzip 1 to 9, zstd 1 to 22
}

// Validate reports an unknown algorithm or a level that the algorithm does not have.
func (c Compression) Validate() error {
	top := 9
	switch c.Algorithm {
	case "", Gzip, Uncompressed:
	case Zstd:
		top = 22
	default:
		return fmt.Errorf("unknown compression %q; use gzip, zstd or uncompressed", c.Algorithm)
	}
	if c.Level < 0 || c.Level > top {
		return fmt.Errorf("compression level %d of %s is out of range; use 0 to %d", c.Level, c.Algorithm, top)
	}
	return nil
}

// String returns a short and complete name of c: equal layers with equal names have equal blobs.
func (c Compression) String() string {
	a := c.Algorithm
	if a == "" {
		a = Gzip
	}
	if c.Level == 0 {
		return string(a)
	}
	return fmt.Sprintf("%s-%d", a, c.Level)
}

// MediaType returns the OCI media type of a layer with this compression.
func (c Compression) MediaType() string {
	switch c.Algorithm {
	case Zstd:
		return ocispecs.MediaTypeImageLayerZstd
	case Uncompressed:
		return ocispecs.MediaTypeImageLayer
	}
	return ocispecs.MediaTypeImageLayerGzip
}

// Packed describes a blob.
type Packed struct {
	DiffID    digest.Digest // of the tar
	Digest    digest.Digest // of the blob
	Size      int64         // of the blob, bytes
	MediaType string        // OCI
	Content   PackResult
}

// Compress writes the layer in the overlayfs directory dir to w as a blob. One pass packs, hashes and compresses.
// It buffers a few blocks for each CPU.
func Compress(ctx context.Context, dir string, opt PackOptions, c Compression, w io.Writer) (Packed, error) {
	var content PackResult
	p, err := compress(w, c, func(tw io.Writer) (err error) {
		content, err = Pack(ctx, dir, tw, opt)
		return err
	})
	p.Content = content
	return p, err
}

// Recompress writes the layer blob r (plain, gzip or zstd) to w with another compression. The bytes of the tar in it
// stay the same.
func Recompress(ctx context.Context, r io.Reader, c Compression, w io.Writer) (Packed, error) {
	return Rewrite(ctx, r, c, w, func(from io.Reader, to io.Writer) error {
		_, err := io.Copy(to, from)
		return err
	})
}

// Rewrite writes the layer blob r (plain, gzip or zstd) to w with the compression c. change copies the tar from its
// first argument to its second and may edit it.
func Rewrite(
	ctx context.Context, r io.Reader, c Compression, w io.Writer, change func(io.Reader, io.Writer) error,
) (Packed, error) {
	s, err := openStream(ctx, r)
	if err != nil {
		return Packed{}, fmt.Errorf("recompress layer: %w", err)
	}
	defer s.Close()
	p, err := compress(w, c, func(tw io.Writer) error { return change(s, tw) })
	if err != nil {
		return Packed{}, fmt.Errorf("recompress layer: %w", err)
	}
	return p, nil
}

func compress(w io.Writer, c Compression, write func(io.Writer) error) (Packed, error) {
	if err := c.Validate(); err != nil {
		return Packed{}, err
	}
	blob := &countingWriter{w: w, hash: sha256.New()}
	z, err := c.writer(blob)
	if err != nil {
		return Packed{}, err
	}
	diff := sha256.New()
	tw := bufio.NewWriterSize(io.MultiWriter(diff, z), 64<<10) // a tar is written in blocks of 512 bytes
	err = write(tw)
	if err == nil {
		err = tw.Flush()
	}
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Packed{}, err
	}
	return Packed{
		DiffID: digest.NewDigest(digest.SHA256, diff), Digest: digest.NewDigest(digest.SHA256, blob.hash), Size: blob.n,
		MediaType: c.MediaType(),
	}, nil
}

// writer returns the compressor. Its output must not depend on the number of CPUs.
func (c Compression) writer(w io.Writer) (io.WriteCloser, error) {
	switch c.Algorithm {
	case Uncompressed:
		return nopCloser{w}, nil
	case Zstd:
		level := zstd.SpeedDefault
		if c.Level > 0 {
			level = zstd.EncoderLevelFromZstd(c.Level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(2))
	}
	level := c.Level
	if level == 0 {
		level = 6
	}
	z, err := pgzip.NewWriterLevel(w, level)
	if err != nil {
		return nil, err
	}
	return z, z.SetConcurrency(gzipBlock, runtime.GOMAXPROCS(0)+1)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// countingWriter hashes and counts the bytes written to w.
type countingWriter struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.hash.Write(p[:n])
	c.n += int64(n)
	return n, err
}
