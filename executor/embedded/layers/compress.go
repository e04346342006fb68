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

// The algorithms. Their names are those of the compression attribute of an output.
const (
	Gzip         Algorithm = "gzip"
	Zstd         Algorithm = "zstd"
	Uncompressed Algorithm = "uncompressed"
)

// gzipBlock is the input that is compressed at once, in bytes. It is a part of the result: changing it changes the
// digest of every layer.
const gzipBlock = 1 << 20

// Form says what a blob is to be. The zero Form is gzip at its default level.
type Form struct {
	Algorithm Algorithm
	Level     int // 0: the algorithm's default; gzip 1 to 9, zstd 1 to 22
}

// Validate says what is wrong with f.
func (f Form) Validate() error {
	top := 9
	switch f.Algorithm {
	case "", Gzip, Uncompressed:
	case Zstd:
		top = 22
	default:
		return fmt.Errorf("unknown compression %q: use gzip, zstd or uncompressed", f.Algorithm)
	}
	if f.Level < 0 || f.Level > top {
		return fmt.Errorf("compression level %d of %s is not in 0 to %d", f.Level, f.Algorithm, top)
	}
	return nil
}

// String names f shortly and completely: blobs of equal layers and equal names have equal bytes.
func (f Form) String() string {
	a := f.Algorithm
	if a == "" {
		a = Gzip
	}
	if f.Level == 0 {
		return string(a)
	}
	return fmt.Sprintf("%s-%d", a, f.Level)
}

// MediaType is the OCI media type of a layer of this form.
func (f Form) MediaType() string {
	switch f.Algorithm {
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

// Compress writes the layer blob of the directory form dir to w in one pass: files to tar to compressor, each digest
// taken on the way. Memory is bounded by a few blocks for each CPU.
func Compress(ctx context.Context, dir string, opt PackOptions, f Form, w io.Writer) (Packed, error) {
	var content PackResult
	p, err := compress(w, f, func(tw io.Writer) (err error) {
		content, err = Pack(ctx, dir, tw, opt)
		return err
	})
	p.Content = content
	return p, err
}

// Recompress writes the layer blob r, plain, gzip or zstd, to w in the form f. The tar inside keeps its bytes.
func Recompress(ctx context.Context, r io.Reader, f Form, w io.Writer) (Packed, error) {
	return Rewrite(ctx, r, f, w, func(from io.Reader, to io.Writer) error {
		_, err := io.Copy(to, from)
		return err
	})
}

// Rewrite writes the layer blob r, plain, gzip or zstd, to w in the form f, with what change makes of the tar inside.
func Rewrite(ctx context.Context, r io.Reader, f Form, w io.Writer, change func(io.Reader, io.Writer) error) (Packed, error) {
	s, err := openStream(ctx, r)
	if err != nil {
		return Packed{}, fmt.Errorf("recompress layer: %w", err)
	}
	defer s.Close()
	p, err := compress(w, f, func(tw io.Writer) error { return change(s, tw) })
	if err != nil {
		return Packed{}, fmt.Errorf("recompress layer: %w", err)
	}
	return p, nil
}

func compress(w io.Writer, f Form, write func(io.Writer) error) (Packed, error) {
	if err := f.Validate(); err != nil {
		return Packed{}, err
	}
	blob := &counter{w: w, hash: sha256.New()}
	z, err := f.writer(blob)
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
		MediaType: f.MediaType(),
	}, nil
}

// writer makes the compressor. Nothing in its output may depend on the number of CPUs.
func (f Form) writer(w io.Writer) (io.WriteCloser, error) {
	switch f.Algorithm {
	case Uncompressed:
		return nopCloser{w}, nil
	case Zstd:
		level := zstd.SpeedDefault
		if f.Level > 0 {
			level = zstd.EncoderLevelFromZstd(f.Level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(2))
	}
	level := f.Level
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

// counter hashes and counts what passes.
type counter struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.hash.Write(p[:n])
	c.n += int64(n)
	return n, err
}
