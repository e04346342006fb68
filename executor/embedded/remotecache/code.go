package remotecache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/bakebuild/bake/executor/registry"
)

// Bounds of an index. They leave room for ten times a build of 2,000 targets with 20 steps each. An export that exceeds
// one is a warning, because no build could import it.
const (
	maxIndex   = 512 << 20 // bytes, compressed
	maxText    = 2 << 30   // bytes of JSON
	maxEntries = 1_000_000
	maxLayers  = 1_000_000
	// maxElement and maxValues bound one entry, layer or mount: bytes, and JSON values.
	maxElement   = 16 << 20
	maxValues    = 500_000
	maxAliases   = 10_000 // of one entry
	maxEncodings = 1_000  // of one layer or cache mount
	maxRefs      = 6_000_000
	maxBlob      = 1 << 40 // bytes
)

// A few bytes of zstd can unpack to gigabytes. So the text may be at most maxRatio times as long as what was read, plus
// freeText: then the work is linear in what was sent. Indexes, whose digests do not compress, reach about 10.
const (
	maxRatio  = 100
	freeText  = 16 << 20 // bytes
	maxWindow = 16 << 20 // bytes of the zstd decoder's window
)

// errBomb means that a text is much larger than its compressed form.
var errBomb = fmt.Errorf("it unpacks to more than %d times its size", maxRatio)

// unpacker reads a zstd stream up to bounds.
type unpacker struct {
	zstd  *zstd.Decoder
	in    *tally
	done  int64 // bytes
	limit int64 // of done
}

// tally counts the bytes that are read.
type tally struct {
	io.Reader
	n int64
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.n += int64(n)
	return n, err
}

func newUnpacker(r io.Reader, limit int64) (*unpacker, error) {
	in := &tally{Reader: r}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &unpacker{zstd: z, in: in, limit: limit}, nil
}

func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.zstd.Read(p)
	u.done += int64(n)
	switch {
	case u.done > u.limit:
		return 0, fmt.Errorf("larger than %d bytes", u.limit)
	case u.done > freeText+maxRatio*u.in.n:
		return 0, errBomb
	}
	return n, err
}

func (u *unpacker) close() { u.zstd.Close() }

// Compress compresses a blob other than a layer. Equal input gives equal output.
func Compress(raw []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return w.EncodeAll(raw, nil), nil
}

// Decompress reverses Compress: it passes the content to use. Output of more than limit bytes, or much more than the
// input, is an error.
func Decompress(r io.Reader, limit int64, use func(io.Reader) error) error {
	u, err := newUnpacker(r, limit)
	if err != nil {
		return err
	}
	defer u.close()
	return use(u)
}

// errTooLarge means that an index cannot be exported.
var errTooLarge = errors.New("the cache is too large for an index; export with mode=min, or to several places")

// encode returns the bytes of an index. It returns an error if they exceed the bounds of an import.
func (x *Index) encode() ([]byte, error) {
	x.Version = indexVersion
	x.sortParts()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	w := &indexWriter{to: z}
	w.text(fmt.Sprintf(`{"Version":%d,"Entries":`, x.Version))
	writeList(w, x.Entries)
	w.text(`,"Layers":`)
	writeList(w, x.Layers)
	if len(x.Mounts) > 0 {
		w.text(`,"Mounts":`)
		writeList(w, x.Mounts)
	}
	w.text("}")
	if err := errors.Join(w.err, z.Close()); err != nil {
		return nil, fmt.Errorf("encode the index of a cache: %w", err)
	}
	if len(x.Entries) > maxEntries || len(x.Layers)+len(x.Mounts) > maxLayers || x.refs() > maxRefs ||
		w.done > maxText || out.Len() > maxIndex || w.done > freeText+maxRatio*int64(out.Len()) {
		return nil, errTooLarge
	}
	return out.Bytes(), nil
}

// refs returns how many names a Catalog of the index would have.
func (x *Index) refs() int {
	n := len(x.Layers) + len(x.Mounts)
	for _, e := range x.Entries {
		n += refsOf + len(e.Aliases)
	}
	return n
}

// indexWriter writes the text of an index. After the first error it writes nothing.
type indexWriter struct {
	to   io.Writer
	done int64
	err  error
}

func (w *indexWriter) text(s string) { w.raw([]byte(s)) }

func (w *indexWriter) raw(p []byte) {
	if w.err == nil {
		_, w.err = w.to.Write(p)
		w.done += int64(len(p))
	}
}

// writeList writes a list, one element at a time.
func writeList[T any](w *indexWriter, list []T) {
	w.text("[")
	for i := range list {
		if i > 0 {
			w.text(",")
		}
		appendElement(w, &list[i])
	}
	w.text("]")
}

// appendElement writes one element.
func appendElement(w *indexWriter, element any) {
	raw, err := json.Marshal(element)
	if err == nil && (len(raw) > maxElement || registry.JSONValues(raw) > maxValues) {
		err = errTooLarge
	}
	w.err = errors.Join(w.err, err)
	w.raw(raw)
}
