package fileop_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// TestChanged: a file of a context that changes after the key was computed is an error.
func TestChanged(t *testing.T) {
	b := newBench(t)
	b.write(t, b.srcDir, "f", "one")
	local := b.context(t)
	if _, err := local.Digest(t.Context(), "/f"); err != nil {
		t.Fatal(err)
	}
	b.write(t, b.srcDir, "f", "two")
	if _, err := b.applyOf(t, local, add("/f", "/g")); !errors.Is(err, tree.ErrChanged) {
		t.Errorf("got %v", err)
	}
}

// TestTimeOfContext: a copy of a whole context has the time of the context directory, as copies of directories in it
// do.
func TestTimeOfContext(t *testing.T) {
	b := newBench(t)
	b.write(t, b.srcDir, "sub/f", "f")
	at := time.Unix(1700000000, 123000)
	for _, dir := range []string{"sub", ""} {
		check(t, os.Chtimes(filepath.Join(b.srcDir, dir), at, at))
	}
	_, err := b.applyOf(t, b.context(t), add("/", "/all"))
	check(t, err)
	for _, dir := range []string{"all", "all/sub"} {
		info, err := os.Stat(filepath.Join(b.upper, dir))
		check(t, err)
		if !info.ModTime().Equal(at) {
			t.Errorf("%s has the time %s, want %s", dir, info.ModTime(), at)
		}
	}
}

// TestFileSystemsInContext: two file systems in one context use the same inode numbers, so equal numbers in different
// file systems do not make a hard link.
func TestFileSystemsInContext(t *testing.T) {
	b := newBench(t)
	for _, d := range []string{"one", "two"} {
		dir := filepath.Join(b.srcDir, d)
		check(t, os.Mkdir(dir, 0o755))
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			skip(t, "cannot mount file systems: "+err.Error())
		}
		t.Cleanup(func() { check(t, unix.Unmount(dir, unix.MNT_DETACH)) })
		b.write(t, dir, "f", d)
		check(t, os.Link(dir+"/f", dir+"/g"))
	}
	_, err := b.applyOf(t, b.context(t), add("/", "/all"))
	check(t, err)
	for _, d := range []string{"one", "two"} {
		for _, name := range []string{"f", "g"} {
			if got, err := os.ReadFile(filepath.Join(b.upper, "all", d, name)); err != nil || string(got) != d {
				t.Errorf("%s/%s: %q, %v", d, name, got, err)
			}
		}
	}
}

// TestSparse: a copy from an image has the bytes of its source and keeps the holes.
func TestSparse(t *testing.T) {
	b := newBench(t)
	const size = 64 << 20
	source := filepath.Join(b.srcDir, "f")
	check(t, os.WriteFile(source, []byte("start"), 0o644))
	check(t, os.Truncate(source, size))
	f, err := os.OpenFile(source, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteAt([]byte("middle"), size/2)
	check(t, errors.Join(err, f.Close()))
	_, err = b.apply(t, add("/f", "/g"))
	check(t, err)
	want, err := os.ReadFile(source)
	check(t, err)
	got, err := os.ReadFile(filepath.Join(b.upper, "g"))
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the copy has other bytes")
	}
	var from, to unix.Stat_t
	check(t, unix.Stat(source, &from))
	check(t, unix.Stat(filepath.Join(b.upper, "g"), &to))
	if from.Blocks < size/1024 && to.Blocks >= size/1024 {
		t.Errorf("the source has %d blocks, the copy %d", from.Blocks, to.Blocks)
	}
}
