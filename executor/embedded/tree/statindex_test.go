package tree

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFileThatIsReadForLong: how long a file is read says nothing about how old its last change was when it was looked at, and another
// one within the granularity of the clock leaves its times as they are.
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
		if len(stat.fresh) != c.want {
			t.Errorf("changed %s before: %d files are remembered, want %d", c.age, len(stat.fresh), c.want)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
