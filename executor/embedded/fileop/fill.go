package fileop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// copyChunk is the number of bytes copied between two checks for a cancelled context.
const copyChunk = 16 << 20

// bufferSize is the size in bytes of the buffers for copying and hashing files of build contexts.
const bufferSize = 64 << 10

// filler writes the content of files and reuses its buffers. It is safe for concurrent use.
type filler struct {
	ctx     context.Context
	buffers sync.Pool // of *[bufferSize]byte
}

// fill writes the content of an entry to a new file. A file of a build context is copied with copyVerified.
func (f *filler) fill(to *os.File, from tree.FS, e tree.Entry) error {
	r, err := from.Open(e.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	if local, ok := from.(*tree.Local); ok {
		return f.copyVerified(to, r, local, e.Path)
	}
	if sparse(r) {
		return copySparse(f.ctx, to, r)
	}
	return copyChunks(f.ctx, to, r)
}

func (f *filler) copyVerified(to *os.File, r *os.File, from *tree.Local, p string) error {
	want, err := from.Digest(f.ctx, p)
	if err != nil {
		return err
	}
	h := sha256.New()
	if err := f.copyHashed(to, h, r); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != want.Encoded() {
		return from.Invalidate(p)
	}
	return nil
}

// copyHashed copies from until its end and adds the bytes to h.
func (f *filler) copyHashed(to *os.File, h hash.Hash, from *os.File) error {
	buffer, ok := f.buffers.Get().(*[bufferSize]byte)
	if !ok {
		buffer = new([bufferSize]byte)
	}
	defer f.buffers.Put(buffer)
	for {
		if f.ctx.Err() != nil {
			return context.Cause(f.ctx)
		}
		n, err := from.Read(buffer[:])
		if n > 0 {
			h.Write(buffer[:n])
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyChunks copies from until its end. Between two files io.CopyN lets the kernel copy, by reference where it can.
func copyChunks(ctx context.Context, to io.Writer, from io.Reader) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.CopyN(to, from, copyChunk)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n < copyChunk {
			return nil
		}
	}
}

// sparse reports whether a file has fewer blocks than its size needs.
func sparse(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Blocks*512 < st.Size
}

// copySparse copies a file and keeps its holes.
//
// An image may hold a sparse file whose size is far above its blocks, such as /var/log/lastlog with 300 GB. Copying it
// byte by byte would fill the disk. SEEK_DATA and SEEK_HOLE return the ranges that hold data; the file gets its full
// size first, so everything between the ranges is a hole that reads as zeros. The invariant: the copy has the same
// bytes as the source, so the content digest does not depend on holes. A file system without holes reports the whole
// file as data, which costs only space. TestSparse checks the bytes and the blocks of a copy.
func copySparse(ctx context.Context, to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		start, err := from.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no data after at
			return nil
		}
		if err != nil {
			return err
		}
		end, err := from.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := copyRange(ctx, to, from, start, end); err != nil {
			return err
		}
		at = end
	}
}

func copyRange(ctx context.Context, to, from *os.File, start, end int64) error {
	if _, err := from.Seek(start, io.SeekStart); err != nil {
		return err
	}
	if _, err := to.Seek(start, io.SeekStart); err != nil {
		return err
	}
	return copyChunks(ctx, to, io.LimitReader(from, end-start))
}
