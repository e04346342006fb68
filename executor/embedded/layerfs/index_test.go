package layerfs_test

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// TestIndexDir compares the index of a directory with the same index after encoding and decoding.
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
	for _, keep := range []bool{false, true} {
		testIndexDir(t, dir, at, keep)
	}
}

func testIndexDir(t *testing.T, dir string, at time.Time, keep bool) {
	first, err := layerfs.IndexDir(t.Context(), dir, func(string) bool { return keep })
	check(t, err)
	if n, ok := first.At("/d/f"); !ok || !keep && len(n.Xattrs) > 0 {
		t.Errorf("the attributes of f: %v", n.Xattrs)
	}
	raw, err := first.MarshalBinary()
	check(t, err)
	again := new(tree.Index)
	check(t, again.UnmarshalBinary(raw))
	for _, p := range []string{"/", "/d", "/d/e", "/d/f", "/d/g", "/d/\xff", "/pipe"} {
		want, _ := first.At(p)
		got, ok := again.At(p)
		if d := cmp.Diff(want, got); d != "" || !ok {
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
		t.Error("encoding a decoded index gives other bytes")
	}
}
