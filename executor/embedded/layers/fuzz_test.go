package layers

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
)

// FuzzUnpack looks for a tar that reaches outside of its directory or crashes. What unpacks must pack, and a second
// round trip must give the same bytes.
func FuzzUnpack(f *testing.F) {
	f.Add(mkTar(f, reg("a/b", "1"), hard("c", "a/b"), sym("d", "../.."), reg("d/e", "2")))
	f.Add(mkTar(f, reg(".wh.a", ""), reg("a/b", "1"), reg("a/.wh..wh..opq", ""), dir("a"), reg("a", "x")))
	f.Add(mkTar(f, sym("a", "/b"), sym("b", "a/.."), dir("a/b/c"), hard("x/y", "a/b")))
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		d := filepath.Join(base, "layer")
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		user := os.Geteuid() != 0
		limits := Limits{Entries: 200, Content: 1 << 20, Names: 1 << 20, Trailing: 1 << 20}
		opt := UnpackOptions{Dir: d, UserXattr: user, Limits: limits}
		_, err := Unpack(context.Background(), bytes.NewReader(data), opt)
		if entries, rerr := os.ReadDir(base); rerr != nil || len(entries) != 1 {
			t.Fatalf("outside: %v %v", entries, rerr)
		}
		if err != nil {
			return
		}
		var first bytes.Buffer
		if _, err := Pack(context.Background(), d, &first, PackOptions{}); err != nil {
			t.Fatalf("pack: %v", err)
		}
		again := filepath.Join(base, "again")
		if err := os.Mkdir(again, 0o755); err != nil {
			t.Fatal(err)
		}
		opt = UnpackOptions{Dir: again, UserXattr: user}
		if _, err := Unpack(context.Background(), bytes.NewReader(first.Bytes()), opt); err != nil {
			t.Fatalf("unpack again: %v", err)
		}
		var second bytes.Buffer
		if _, err := Pack(context.Background(), again, &second, PackOptions{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatal("a second round trip changed the bytes")
		}
	})
}
