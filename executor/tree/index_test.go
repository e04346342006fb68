package tree_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/bakebuild/bake/executor/tree"
)

// FuzzIndex tries that whatever is decoded is bounded and encodes to an index with the same paths.
func FuzzIndex(f *testing.F) {
	raw, err := tree.NewIndex([]tree.Node{
		{Entry: tree.Entry{Path: "/a", Mode: tree.ModeRegular | 0o644, Size: 3, Mtime: time.Unix(5, 6)},
			Xattrs: map[string][]byte{"user.x": {1}}},
		{Entry: tree.Entry{Path: "/b"}, Whiteout: true},
	}).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("bake-paths 1\n\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		x := new(tree.Index)
		if x.UnmarshalBinary(raw) != nil {
			return
		}
		once, err := x.MarshalBinary()
		check(t, err)
		y := new(tree.Index)
		check(t, y.UnmarshalBinary(once))
		if x.Len() != y.Len() || x.Len() > len(raw)*64 {
			t.Errorf("%d paths of %d bytes, then %d", x.Len(), len(raw), y.Len())
		}
	})
}

func BenchmarkIndexCode(b *testing.B) {
	var nodes []tree.Node
	for i := range 10000 {
		nodes = append(nodes, tree.Node{Entry: tree.Entry{
			Path: fmt.Sprintf("/usr/lib/node_modules/p%d/index.js", i), Mode: tree.ModeRegular | 0o644,
			Size: int64(i), Nlink: 1,
			Mtime: time.Unix(1700000000+int64(i), 5),
		}})
	}
	x := tree.NewIndex(nodes)
	b.ReportAllocs()
	for b.Loop() {
		raw, err := x.MarshalBinary()
		if err != nil {
			b.Fatal(err)
		}
		if err := new(tree.Index).UnmarshalBinary(raw); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(raw)))
	}
}
