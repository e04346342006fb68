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

// piece is how much is copied before a cancelled build is noticed, in bytes.
const piece = 16 << 20

// hashSize is the size of the buffers through which files of build contexts are copied and hashed, in bytes.
const hashSize = 64 << 10

// filler writes the content of files. Its buffers serve one file after another; it may be used by several goroutines.
type filler struct {
	ctx     context.Context
	buffers sync.Pool // of *[hashSize]byte
}

// fill writes the content of an entry to a new file. What comes from a build context must be what the step was keyed by.
func (f *filler) fill(to *os.File, from tree.FS, e tree.Entry) error {
	r, err := from.Open(e.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	if local, ok := from.(*tree.Local); ok {
		return f.checked(to, r, local, e.Path)
	}
	if sparse(r) {
		return copySparse(f.ctx, to, r)
	}
	return copyPieces(f.ctx, to, r)
}

func (f *filler) checked(to *os.File, r *os.File, from *tree.Local, p string) error {
	want, err := from.Digest(f.ctx, p)
	if err != nil {
		return err
	}
	h := sha256.New()
	if err := f.copyHashed(to, h, r); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != want.Encoded() {
		return from.Changed(p)
	}
	return nil
}

// copyHashed copies until the end, and hashes what it copies.
func (f *filler) copyHashed(to *os.File, h hash.Hash, from *os.File) error {
	buffer, ok := f.buffers.Get().(*[hashSize]byte)
	if !ok {
		buffer = new([hashSize]byte)
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

// copyPieces copies until the end. Between two files the kernel copies, where it can without reading.
func copyPieces(ctx context.Context, to io.Writer, from io.Reader) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.CopyN(to, from, piece)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n < piece {
			return nil
		}
	}
}

// sparse says that a file takes less room than its size.
func sparse(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Blocks*512 < st.Size
}

// copySparse copies the parts of a file that hold data and leaves holes between them.
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
		if errors.Is(err, unix.ENXIO) { // no data behind at
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
	return copyPieces(ctx, to, io.LimitReader(from, end-start))
}
