package tree

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"runtime"
	"sort"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// SelectionDigest is the content digest of what a selection names: names, types, modes, owners, link targets, devices,
// attributes that a copy keeps, which files are one by hard links, and contents. Times are not in it.
func SelectionDigest(ctx context.Context, f FS, s Selection) (digest.Digest, error) {
	matches, err := Select(ctx, f, s)
	if err != nil {
		return "", err
	}
	contents, err := contentDigests(ctx, f, matches)
	if err != nil {
		return "", err
	}
	h := &hasher{Hash: sha256.New(), inodes: map[uint64]string{}}
	for _, m := range matches {
		h.text("match", m.Name)
		for _, file := range m.Files {
			if err := h.file(f, file, contents[file.Entry.Path]); err != nil {
				return "", err
			}
		}
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// contentDigests computes the digests of all regular files, side by side.
func contentDigests(ctx context.Context, f FS, matches []Match) (map[string]digest.Digest, error) {
	var paths []string
	for _, m := range matches {
		for _, file := range m.Files {
			if file.Entry.IsRegular() {
				paths = append(paths, file.Entry.Path)
			}
		}
	}
	found := make(map[string]digest.Digest, len(paths))
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	workers := min(runtime.GOMAXPROCS(0), 8)
	for w := range workers {
		group.Go(func() error {
			for i := w; i < len(paths); i += workers {
				d, err := f.Digest(ctx, paths[i])
				if err != nil {
					return err
				}
				mu.Lock()
				found[paths[i]] = d
				mu.Unlock()
			}
			return nil
		})
	}
	return found, group.Wait()
}

// hasher writes length-prefixed fields, so that no two selections give the same bytes.
type hasher struct {
	hash.Hash
	buf    []byte
	inodes map[uint64]string // of files with several names: the first that was seen
}

func (h *hasher) text(fields ...string) {
	for _, f := range fields {
		h.buf = binary.AppendUvarint(h.buf[:0], uint64(len(f)))
		h.Write(append(h.buf, f...))
	}
}

func (h *hasher) numbers(fields ...uint64) {
	h.buf = h.buf[:0]
	for _, n := range fields {
		h.buf = binary.AppendUvarint(h.buf, n)
	}
	h.Write(h.buf)
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
