package tree

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// TestFileThatIsReadForLong: how long a file is read says nothing about how old its last change was when it was
// looked at, and another one within the granularity of the clock leaves its times as they are.
func TestFileThatIsReadForLong(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		age  time.Duration
		want int
	}{{time.Second / 2, 0}, {time.Hour, 1}} {
		stat, err := OpenStatIndex(filepath.Join(dir, "index"))
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().Add(c.age)
		stat.now = func() time.Time { return now }
		l, err := OpenLocal(t.Context(), dir, nil, stat)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Lookup("/f"); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute) // it takes that long
		if _, err := l.Digest(t.Context(), "/f"); err != nil {
			t.Fatal(err)
		}
		if len(stat.unsaved) != c.want {
			t.Errorf("changed %s before: %d files are remembered, want %d", c.age, len(stat.unsaved), c.want)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMappedFile: a file that was written without a change of its times, as through a mapping, is hashed again once a
// copy has found so; in the next run too.
func TestMappedFile(t *testing.T) {
	dir := t.TempDir()
	index := filepath.Join(dir, "index")
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	open := func(stat *StatIndex) (*Local, digest.Digest) {
		t.Helper()
		l, err := OpenLocal(t.Context(), dir, nil, stat)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		d, err := l.Digest(t.Context(), "/f")
		if err != nil {
			t.Fatal(err)
		}
		return l, d
	}
	stat, err := OpenStatIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := open(stat)
	f, err := l.file("/f")
	if err != nil {
		t.Fatal(err)
	}
	stat.put(f.localFile, [32]byte{1}, time.Now().Add(time.Hour)) // of what it was
	if err := stat.Save(); err != nil {
		t.Fatal(err)
	}
	l, d := open(stat)
	if d == digest.FromString("new") {
		t.Fatal("the index was not asked")
	}
	if err := l.Invalidate("/f"); !errors.Is(err, ErrChanged) {
		t.Errorf("got %v", err)
	}
	if _, d := open(stat); d != digest.FromString("new") {
		t.Errorf("in this run: %s", d)
	}
	if err := stat.Save(); err != nil {
		t.Fatal(err)
	}
	if stat, err = OpenStatIndex(index); err != nil {
		t.Fatal(err)
	}
	if _, d := open(stat); d != digest.FromString("new") {
		t.Errorf("in the next run: %s", d)
	}
}
