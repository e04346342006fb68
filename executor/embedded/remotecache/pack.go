package remotecache

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// packMagic starts a pack: a file of many blobs. The length of the table follows in eight bytes, big endian; then the
// table, a JSON list of packed; then the blobs in that order without gaps.
const packMagic = "bake-pack 1\n"

// maxTable bounds the table of a pack, in bytes.
const maxTable = 64 << 20

// maxPacked bounds the blobs of all packs of a cache together. Each takes about 200 bytes of memory.
const maxPacked = 1_000_000

// packed is a blob in the table of a pack.
type packed struct {
	Digest digest.Digest
	Size   int64
}

// pack is an open pack.
type pack struct {
	file  *os.File
	table []packed
	at    map[digest.Digest]int64 // where each blob begins
	size  int64                   // of the whole file
}

// openPack opens a pack of at most limit blobs in a directory. The error is fs.ErrNotExist if it does not exist.
func openPack(dir *os.Root, name string, limit int) (*pack, error) {
	// O_NONBLOCK: opening a FIFO must not block; it is rejected below.
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	p := &pack{file: f, at: map[digest.Digest]int64{}}
	if err := p.read(limit); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

var errDamagedPack = errors.New("the file is damaged")

func (p *pack) read(limit int) error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, len(packMagic)+8)
	if !info.Mode().IsRegular() {
		return errDamagedPack
	}
	if _, err := io.ReadFull(p.file, head); err != nil || string(head[:len(packMagic)]) != packMagic {
		return errDamagedPack
	}
	length := binary.BigEndian.Uint64(head[len(packMagic):])
	if length > maxTable || int64(length) > info.Size() {
		return errDamagedPack
	}
	p.size = int64(len(head)) + int64(length)
	list := &elements{from: &gauge{r: io.LimitReader(p.file, int64(length))}}
	if err := list.list(func(raw []byte) error { return p.add(raw, info.Size(), limit) }); err != nil {
		return errDamagedPack
	}
	if p.size != info.Size() {
		return errDamagedPack
	}
	return nil
}

// add adds a blob of the table.
func (p *pack) add(raw []byte, end int64, limit int) error {
	var b packed
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	if b.Digest.Validate() != nil || b.Size < 0 || b.Size > maxBlob || len(p.table) >= limit {
		return errDamagedPack
	}
	p.table = append(p.table, b)
	p.at[b.Digest] = p.size
	if p.size += b.Size; p.size > end {
		return errDamagedPack
	}
	return nil
}

// open reads a blob; ok is false if the pack has no blob of this digest, or ends before its size. A size that differs
// from that in the table otherwise appears as a DamagedError when the blob is read.
func (p *pack) open(b Blob) (r io.ReadCloser, ok bool) {
	if p == nil {
		return nil, false
	}
	at, ok := p.at[b.Digest]
	if !ok || at+b.Size > p.size {
		return nil, false
	}
	return newChecked(io.NewSectionReader(p.file, at, b.Size), io.NopCloser(nil), b), true
}

// holds reports whether the pack has exactly these blobs in this order.
func (p *pack) holds(blobs []Blob) bool {
	if p == nil || len(p.table) != len(blobs) {
		return false
	}
	for i, b := range blobs {
		if p.table[i] != (packed{b.Digest, b.Size}) {
			return false
		}
	}
	return true
}

func (p *pack) close() {
	if p != nil {
		p.file.Close()
	}
}

// opener opens a blob.
type opener = func(context.Context, Blob) (io.ReadCloser, error)

// writePack writes a pack of the blobs to f, each from the first opener that returns all of its bytes.
func writePack(ctx context.Context, f *os.File, blobs []Blob, openers ...opener) error {
	table := make([]packed, len(blobs))
	for i, b := range blobs {
		table[i] = packed{b.Digest, b.Size}
	}
	raw, err := json.Marshal(table)
	if err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint64([]byte(packMagic), uint64(len(raw)))
	if _, err := f.Write(append(head, raw...)); err != nil {
		return err
	}
	at := int64(len(head) + len(raw))
	for _, b := range blobs {
		if err := writeBlob(ctx, f, at, b, openers); err != nil {
			return fmt.Errorf("blob %s: %w", b.Digest, err)
		}
		at += b.Size
	}
	return nil
}

func writeBlob(ctx context.Context, f *os.File, at int64, b Blob, openers []opener) error {
	var failed error
	for _, open := range openers {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		r, err := open(ctx, b)
		if err == nil {
			_, err = io.Copy(io.NewOffsetWriter(f, at), newChecked(r, r, b))
			r.Close()
		}
		if err == nil {
			return nil
		}
		failed = errors.Join(failed, err)
	}
	return failed
}
