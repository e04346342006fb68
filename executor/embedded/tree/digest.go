package tree

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"runtime"
	"sort"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// SelectionDigest is the content digest of what a selection names: names, types, modes, owners, link targets, devices,
// attributes that a copy keeps, which files are one by hard links, and contents. Times are not in it. It holds some files of
// the selection at a time, however many there are.
func SelectionDigest(ctx context.Context, f FS, s Selection) (digest.Digest, error) {
	h := &hasher{Hash: sha256.New(), fs: f, inodes: map[uint64]string{}}
	err := scan(ctx, f, s, func(m Match) error {
		err := h.flush(ctx)
		h.text("match", m.Name)
		h.write()
		return err
	}, func(file Selected) error {
		h.files = append(h.files, file)
		if len(h.files) < maxBatch {
			return nil
		}
		return h.flush(ctx)
	})
	if err == nil {
		err = h.flush(ctx)
	}
	if err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// maxBatch is how many files are read side by side before they are hashed in order.
const maxBatch = 512

// flush hashes the files that wait, with their contents, which are read side by side.
func (h *hasher) flush(ctx context.Context) error {
	contents, err := h.contents(ctx)
	if err != nil {
		return err
	}
	for i, file := range h.files {
		if err := h.file(h.fs, file, contents[i]); err != nil {
			return err
		}
	}
	h.files = h.files[:0]
	return nil
}

// contents computes the digests of the regular files among those that wait.
func (h *hasher) contents(ctx context.Context) ([]digest.Digest, error) {
	found := make([]digest.Digest, len(h.files))
	group, ctx := errgroup.WithContext(ctx)
	workers := min(runtime.GOMAXPROCS(0), 8)
	for w := range workers {
		group.Go(func() (err error) {
			for i := w; i < len(found) && err == nil; i += workers {
				if e := h.files[i].Entry; e.IsRegular() {
					found[i], err = h.fs.Digest(ctx, e.Path)
				}
			}
			return err
		})
	}
	return found, group.Wait()
}

// hasher writes length-prefixed fields, so that no two selections give the same bytes.
type hasher struct {
	hash.Hash
	fs     FS
	files  []Selected        // that wait to be hashed
	buf    []byte            // fields that are not hashed yet
	inodes map[uint64]string // of files with several names: the first that was seen
}

func (h *hasher) text(fields ...string) {
	for _, f := range fields {
		h.buf = binary.AppendUvarint(h.buf, uint64(len(f)))
		h.buf = append(h.buf, f...)
	}
}

func (h *hasher) numbers(fields ...uint64) {
	for _, n := range fields {
		h.buf = binary.AppendUvarint(h.buf, n)
	}
}

// write hashes the fields so far.
func (h *hasher) write() {
	h.Write(h.buf)
	h.buf = h.buf[:0]
}

func (h *hasher) file(f FS, file Selected, content digest.Digest) error {
	e := file.Entry
	h.text("file", file.Rel)
	implied := uint64(0)
	if file.Implied {
		implied = 1
	}
	h.numbers(uint64(e.Mode), uint64(e.UID), uint64(e.GID), e.Rdev*deviceBit(e), implied)
	h.text(e.Link, string(content), h.sameAs(file))
	defer h.write()
	if !e.IsRegular() && !e.IsDir() {
		return nil
	}
	attrs, err := f.Xattrs(e.Path)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(attrs))
	for name := range attrs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		h.text(name, string(attrs[name]))
	}
	return nil
}

// sameAs is the first path of the selection that is the same file by a hard link.
func (h *hasher) sameAs(file Selected) string {
	e := file.Entry
	if !e.IsRegular() || e.Nlink < 2 || e.Inode == 0 {
		return ""
	}
	if first, ok := h.inodes[e.Inode]; ok {
		return first
	}
	h.inodes[e.Inode] = file.Rel
	return ""
}

// deviceBit is 1 for devices, whose Rdev counts.
func deviceBit(e Entry) uint64 {
	if e.Type() == 0o020000 || e.Type() == 0o060000 {
		return 1
	}
	return 0
}
