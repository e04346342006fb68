package tree

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
	"time"
)

// indexMagic begins an encoded index. Nodes follow in the order of their paths; each path is prefix-compressed against
// the previous one. Numbers are varints, and the length of a text precedes it.
const indexMagic = "bake-paths 1\n"

// The marks of an encoded node.
const (
	markWhiteout = 1 << iota
	markOpaque
	markImplied
	markLink
	markDevice
	markXattrs
	markInode
)

const (
	maxIndexPath   = 4095 // bytes, as in Linux
	maxIndexXattrs = 64   // of one file
)

// MarshalBinary encodes the index. Equal indexes have equal encodings.
func (x *Index) MarshalBinary() ([]byte, error) {
	paths := slices.Sorted(maps.Keys(x.nodes))
	b := append(make([]byte, 0, 32*len(paths)), indexMagic...)
	b = binary.AppendUvarint(b, uint64(len(paths)))
	before := Node{}
	for _, p := range paths {
		n := x.nodes[p]
		b = appendNode(b, before, n)
		before = n
	}
	return b, nil
}

func appendNode(b []byte, before, n Node) []byte {
	e := n.Entry
	same := shared(before.Entry.Path, e.Path)
	b = binary.AppendUvarint(b, uint64(same))
	b = appendText(b, e.Path[same:])
	marks := n.marks()
	b = append(b, marks)
	if n.Whiteout {
		return b
	}
	for _, v := range []uint64{
		uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.Size), uint64(e.Nlink), uint64(e.Mtime.Nanosecond()),
	} {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendVarint(b, e.Mtime.Unix())
	if marks&markLink != 0 {
		b = appendText(b, e.Link)
	}
	if marks&markDevice != 0 {
		b = binary.AppendUvarint(b, e.Rdev)
	}
	if marks&markInode != 0 {
		b = binary.AppendUvarint(b, e.Inode)
	}
	if marks&markXattrs != 0 {
		b = binary.AppendUvarint(b, uint64(len(n.Xattrs)))
		for _, name := range slices.Sorted(maps.Keys(n.Xattrs)) {
			b = appendText(appendText(b, name), string(n.Xattrs[name]))
		}
	}
	return b
}

func (n Node) marks() (m byte) {
	for _, mark := range []struct {
		on  bool
		bit byte
	}{
		{n.Whiteout, markWhiteout}, {n.Opaque, markOpaque}, {n.Implied, markImplied}, {n.Entry.Link != "", markLink},
		{n.Entry.Rdev != 0, markDevice}, {len(n.Xattrs) > 0, markXattrs}, {n.Entry.Inode != 0, markInode},
	} {
		if mark.on {
			m |= mark.bit
		}
	}
	return m
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// shared returns the length of the common prefix of two texts.
func shared(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// UnmarshalBinary decodes the output of MarshalBinary. Paths must be absolute, clean and unique.
func (x *Index) UnmarshalBinary(raw []byte) error {
	_, err := x.Decode(bytes.NewReader(raw), math.MaxInt64)
	return err
}

// Decode is UnmarshalBinary of an index from elsewhere. It returns about how many bytes of memory the index takes, and
// an error that wraps ErrIndexTooLarge if that is more than limit: a few bytes can stand for long paths, because they
// are prefix-compressed.
func (x *Index) Decode(r io.Reader, limit int64) (memory int64, err error) {
	*x = Index{nodes: map[string]Node{}, children: map[string][]string{}}
	before := ""
	err = ReadIndex(r, func(n Node) error {
		p := n.Entry.Path
		same := shared(before, p)
		before = p
		memory += int64(len(p)) + nodeMemory*int64(1+strings.Count(p[same:], "/"))
		for name, value := range n.Xattrs {
			memory += int64(len(name) + len(value) + nodeMemory)
		}
		if memory > limit {
			return ErrIndexTooLarge
		}
		x.put(n)
		return nil
	})
	for _, names := range x.children {
		slices.Sort(names)
	}
	return memory, err
}

// nodeMemory is about what a node takes in memory, without its path.
const nodeMemory = 300

// ErrIndexTooLarge means that an index takes more memory than allowed.
var ErrIndexTooLarge = errors.New("too many paths")

// ReadIndex calls use for each node of an encoded index, in the order of the paths, which is the order of their bytes.
// It holds one node at a time, so the memory does not depend on the size of the index, which others may choose. Errors
// of use are returned as they are.
func ReadIndex(from io.Reader, use func(Node) error) error {
	r := &indexReader{from: bufio.NewReader(from)}
	head := make([]byte, len(indexMagic))
	if _, r.err = io.ReadFull(r.from, head); r.err == nil && string(head) != indexMagic {
		r.err = errNoIndex
	}
	before := ""
	for count := r.number(math.MaxUint64); count > 0 && r.err == nil; count-- {
		n := r.node(before)
		if r.err != nil {
			break
		}
		before = n.Entry.Path
		if err := use(n); err != nil {
			return err
		}
	}
	if r.err == nil {
		if _, err := r.from.Peek(1); err != io.EOF {
			r.err = cmp.Or(err, errNoIndex)
		}
	}
	if r.err == io.EOF || r.err == io.ErrUnexpectedEOF {
		r.err = errNoIndex
	}
	if r.err != nil {
		return fmt.Errorf("decode path index: %w", r.err)
	}
	return nil
}

var errNoIndex = errors.New("damaged index")

// indexReader decodes an index. After the first error all reads return zero.
type indexReader struct {
	from *bufio.Reader
	err  error
}

// number reads a number of at most max.
func (r *indexReader) number(max uint64) uint64 {
	var v uint64
	for i := 0; i < binary.MaxVarintLen64 && r.err == nil; i++ {
		var c byte
		if c, r.err = r.from.ReadByte(); r.err != nil {
			return 0
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if v > max {
				break
			}
			return v
		}
	}
	r.err = cmp.Or(r.err, errNoIndex)
	return 0
}

// text reads a text of at most max bytes.
func (r *indexReader) text(max int) string {
	n := int(r.number(uint64(max)))
	if r.err != nil {
		return ""
	}
	if n > r.from.Size() {
		long := make([]byte, n)
		if _, err := io.ReadFull(r.from, long); err != nil {
			r.err = err
			return ""
		}
		return string(long)
	}
	raw, err := r.from.Peek(n)
	if err != nil {
		r.err = err
		return ""
	}
	s := string(raw)
	_, r.err = r.from.Discard(n)
	return s
}

func (r *indexReader) node(before string) Node {
	same := int(r.number(uint64(len(before))))
	n := Node{Entry: Entry{Path: before[:same] + r.text(maxIndexPath)}}
	p := n.Entry.Path
	if len(p) > maxIndexPath || p <= before || p[0] != '/' || path.Clean(p) != p || strings.Contains(p, "\x00") {
		r.err = errNoIndex
		return Node{}
	}
	marks := byte(r.number(0x7f))
	if n.Whiteout = marks&markWhiteout != 0; n.Whiteout {
		return n
	}
	n.Opaque, n.Implied = marks&markOpaque != 0, marks&markImplied != 0
	e := &n.Entry
	e.Mode, e.UID, e.GID = uint32(r.number(1<<32-1)), uint32(r.number(1<<32-1)), uint32(r.number(1<<32-1))
	e.Size, e.Nlink = int64(r.number(1<<62)), uint32(r.number(1<<32-1))
	nanos := int64(r.number(1e9 - 1))
	v := r.number(1<<64 - 1)
	e.Mtime = time.Unix(int64(v>>1)^-int64(v&1), nanos)
	if marks&markLink != 0 {
		e.Link = r.text(maxIndexPath)
	}
	if marks&markDevice != 0 {
		e.Rdev = r.number(1<<64 - 1)
	}
	if marks&markInode != 0 {
		e.Inode = r.number(1<<64 - 1)
	}
	if marks&markXattrs != 0 {
		count := r.number(maxIndexXattrs)
		n.Xattrs = make(map[string][]byte, count)
		for range count {
			name := r.text(255)
			n.Xattrs[name] = []byte(r.text(MaxXattrs))
		}
	}
	return n
}
