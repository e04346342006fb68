package tree_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/tree"
)

// TestIndexDir lists a directory form, and compares what was encoded and decoded with it.
func TestIndexDir(t *testing.T) {
	dir := t.TempDir()
	at := time.Unix(1700000000, 123456789)
	check(t, os.MkdirAll(dir+"/d/e", 0o750))
	check(t, os.WriteFile(dir+"/d/f", []byte("four"), 0o640))
	check(t, os.Link(dir+"/d/f", dir+"/d/g"))
	check(t, os.Symlink("f", dir+"/d/\xff"))
	check(t, unix.Mkfifo(dir+"/pipe", 0o600))
	check(t, os.Chtimes(dir+"/d/f", at, at))
	if err := unix.Setxattr(dir+"/d/f", "user.note", []byte("x"), 0); err != nil {
		t.Logf("no xattrs here: %v", err)
	}
	first, err := tree.IndexDir(t.Context(), dir)
	check(t, err)
	raw, err := first.MarshalBinary()
	check(t, err)
	again := new(tree.Index)
	check(t, again.UnmarshalBinary(raw))
	for _, p := range []string{"/", "/d", "/d/e", "/d/f", "/d/g", "/d/\xff", "/pipe"} {
		was, _ := first.At(p)
		is, ok := again.At(p)
		if d := cmp.Diff(was, is); d != "" || !ok {
			t.Errorf("%q: %s", p, d)
		}
	}
	f, _ := again.At("/d/f")
	g, _ := again.At("/d/g")
	if !f.Entry.Mtime.Equal(at) || f.Entry.Size != 4 || f.Entry.Inode == 0 || f.Entry.Inode != g.Entry.Inode {
		t.Errorf("got %+v and %+v", f.Entry, g.Entry)
	}
	second, err := again.MarshalBinary()
	check(t, err)
	if string(second) != string(raw) {
		t.Error("an index that was decoded has other bytes")
	}
}

// FuzzIndex tries that whatever is decoded is bounded and encodes to an index with the same paths.
func FuzzIndex(f *testing.F) {
	raw, err := tree.NewIndex([]tree.Node{
		{Entry: tree.Entry{Path: "/a", Mode: unix.S_IFREG | 0o644, Size: 3, Mtime: time.Unix(5, 6)}, Xattrs: map[string][]byte{"user.x": {1}}},
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
			Path: fmt.Sprintf("/usr/lib/node_modules/p%d/index.js", i), Mode: unix.S_IFREG | 0o644, Size: int64(i), Nlink: 1,
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
