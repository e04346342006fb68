package tree

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Bounds of a listing.
const (
	maxListed      = 200_000 // files
	maxListedBytes = 64 << 20
)

// Listing holds the files of a selection, sorted by path: enough to find later which files differ.
type Listing []ListedFile

// ListedFile is one file of a listing. Sum is a 64-bit hash of owner, device number, link target
// and content. Extended attributes and hard links are not in it: a selection's digest can differ when its listing does
// not.
type ListedFile struct {
	Path string // from the root of the tree, without the first slash
	Mode uint32
	Sum  uint64
}

// errTooMany reports that a selection has more files than a listing may hold.
var errTooMany = errors.New("too many files for a listing")

// List lists the files of a selection. It returns nil if nothing is selected, and also if the selection has more than
// maxListed files.
func List(ctx context.Context, f FS, s Selection) (Listing, error) {
	l := lister{batch: batch{fs: f}}
	err := scan(ctx, f, s, visitor{match: func(Match) error { return nil }, file: func(file Selected) error {
		l.files = append(l.files, file)
		if len(l.files) < maxBatch {
			return nil
		}
		return l.flush(ctx)
	}})
	if err == nil {
		err = l.flush(ctx)
	}
	if errors.Is(err, errTooMany) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(l.list, func(a, b ListedFile) int { return cmp.Compare(a.Path, b.Path) })
	return slices.CompactFunc(l.list, func(a, b ListedFile) bool { return a.Path == b.Path }), nil
}

// lister creates a listing. File contents are read in parallel, as for a digest.
type lister struct {
	batch
	list Listing
}

func (l *lister) flush(ctx context.Context) error {
	if len(l.list)+len(l.files) > maxListed {
		return errTooMany
	}
	contents, err := l.contents(ctx)
	if err != nil {
		return err
	}
	for i, file := range l.files {
		e := file.Entry
		if e.Path == "/" {
			continue
		}
		h := fnv.New64a()
		fmt.Fprint(h, e.UID, e.GID, e.Rdev*deviceBit(&e), e.Link, contents[i])
		l.list = append(l.list, ListedFile{strings.TrimPrefix(e.Path, "/"), e.Mode, h.Sum64()})
	}
	l.files = l.files[:0]
	return nil
}

// Encode packs a listing: each path is prefix-compressed against the previous one. The size is not limited, but
// DecodeListing rejects more than maxListedBytes.
func (l Listing) Encode() ([]byte, error) {
	var raw []byte
	before := ""
	for _, f := range l {
		same := 0
		for same < min(len(before), len(f.Path)) && before[same] == f.Path[same] {
			same++
		}
		raw = binary.AppendUvarint(raw, uint64(same))
		raw = binary.AppendUvarint(raw, uint64(len(f.Path)-same))
		raw = append(raw, f.Path[same:]...)
		raw = binary.AppendUvarint(raw, uint64(f.Mode))
		raw = binary.LittleEndian.AppendUint64(raw, f.Sum)
		before = f.Path
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(64<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return w.EncodeAll(raw, nil), nil
}

var errListing = errors.New("damaged listing")

// DecodeListing unpacks a listing of at most maxListed files and maxListedBytes bytes, uncompressed.
func DecodeListing(packed []byte) (Listing, error) {
	zr, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxListedBytes))
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	raw, err := zr.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errListing, err)
	}
	var list Listing
	before := ""
	number := func() (int, bool) {
		v, n := binary.Uvarint(raw)
		if n <= 0 || v > maxListedBytes {
			return 0, false
		}
		raw = raw[n:]
		return int(v), true
	}
	for len(raw) > 0 && len(list) < maxListed {
		same, ok1 := number()
		length, ok2 := number()
		if !ok1 || !ok2 || same > len(before) || length > len(raw) {
			return nil, errListing
		}
		path := before[:same] + string(raw[:length])
		raw = raw[length:]
		mode, ok := number()
		if !ok || len(raw) < 8 {
			return nil, errListing
		}
		list = append(list, ListedFile{path, uint32(mode), binary.LittleEndian.Uint64(raw)})
		raw, before = raw[8:], path
	}
	return list, nil
}

// Difference is one file that differs between two listings. A side that lacks the file is nil.
type Difference struct{ Old, New *ListedFile }

// Path is the file's path.
func (d Difference) Path() string {
	if d.New != nil {
		return d.New.Path
	}
	return d.Old.Path
}

// Differences returns the files that differ, sorted by path. A directory differs if its mode or owner does.
func Differences(old, new Listing) []Difference {
	var all []Difference
	for i, k := 0, 0; i < len(old) || k < len(new); {
		switch {
		case k == len(new) || i < len(old) && old[i].Path < new[k].Path:
			all = append(all, Difference{Old: &old[i]})
			i++
		case i == len(old) || new[k].Path < old[i].Path:
			all = append(all, Difference{New: &new[k]})
			k++
		default:
			if old[i] != new[k] {
				all = append(all, Difference{&old[i], &new[k]})
			}
			i, k = i+1, k+1
		}
	}
	return all
}
