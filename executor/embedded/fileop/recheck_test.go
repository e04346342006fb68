package fileop_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
)

// TestRecheck: a layer serves a parent that differs in paths without a recorded lookup. It does not serve a parent
// whose answers differ.
func TestRecheck(t *testing.T) {
	b := newBench(t)
	b.write(t, b.parentDir, "app/old", "1")
	b.write(t, b.srcDir, "f", "new")
	res, err := b.apply(t, add("/f", "/app/"))
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		change func(dir string) error
		want   bool
	}{
		{"nothing", func(string) error { return nil }, true},
		{"elsewhere", func(dir string) error { return os.WriteFile(filepath.Join(dir, "other"), nil, 0o644) }, true},
		{"mode of the directory", func(dir string) error { return os.Chmod(filepath.Join(dir, "app"), 0o700) }, false},
		{"directory missing", func(dir string) error { return os.RemoveAll(filepath.Join(dir, "app")) }, false},
		{"directory at the destination", func(dir string) error {
			return os.Mkdir(filepath.Join(dir, "app/f"), 0o755)
		}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			check(t, os.Chmod(dir, 0o755))
			check(t, os.Mkdir(filepath.Join(dir, "app"), 0o755))
			check(t, c.change(dir))
			v := layerfs.NewView([]layerfs.Layer{{ID: "o", Dir: dir}})
			defer v.Close()
			if got := fileop.Recheck(v, res.Lookups); got != c.want {
				t.Errorf("got %v; lookups %v", got, res.Lookups)
			}
		})
	}
}

// TestRecheckOfInherited: a directory that a copy creates below a setgid directory has the group of that, so the layer
// does not serve a parent with another group or without the bit.
func TestRecheckOfInherited(t *testing.T) {
	b := newBench(t)
	b.write(t, b.srcDir, "f", "new")
	shared := func(dir string, gid int, mode os.FileMode) {
		check(t, os.Mkdir(filepath.Join(dir, "app"), 0o755))
		check(t, os.Chown(filepath.Join(dir, "app"), 0, gid))
		check(t, os.Chmod(filepath.Join(dir, "app"), mode))
	}
	shared(b.parentDir, 100, 0o755|os.ModeSetgid)
	res, err := b.apply(t, add("/f", "/app/a/b/"))
	check(t, err)
	var st unix.Stat_t
	check(t, unix.Stat(filepath.Join(b.upper, "app/a/b"), &st))
	if st.Mode != unix.S_IFDIR|0o2755 || st.Uid != 0 || st.Gid != 100 {
		t.Errorf("the created directory is %o %d:%d", st.Mode, st.Uid, st.Gid)
	}
	for _, c := range []struct {
		gid  int
		mode os.FileMode
		want bool
	}{{100, 0o755 | os.ModeSetgid, true}, {101, 0o755 | os.ModeSetgid, false}, {100, 0o755, false}} {
		dir := t.TempDir()
		check(t, os.Chmod(dir, 0o755))
		shared(dir, c.gid, c.mode)
		v := layerfs.NewView([]layerfs.Layer{{ID: "o", Dir: dir}})
		if got := fileop.Recheck(v, res.Lookups); got != c.want {
			t.Errorf("group %d, mode %v: got %v", c.gid, c.mode, got)
		}
		check(t, v.Close())
	}
}

// TestRecheckOfCopiedUp: an archive with a hard link to a file of the parent has that file in its layer, whatever its
// kind, so the layer serves no other parent.
func TestRecheckOfCopiedUp(t *testing.T) {
	for _, kind := range []string{"file", "link", "fifo"} {
		t.Run(kind, func(t *testing.T) {
			b := newBench(t)
			at := filepath.Join(b.parentDir, "old")
			switch kind {
			case "file":
				check(t, os.WriteFile(at, []byte("1"), 0o644))
			case "link":
				check(t, os.Symlink("gone", at))
			case "fifo":
				check(t, unix.Mkfifo(at, 0o644))
			}
			check(t, os.WriteFile(filepath.Join(b.srcDir, "t"), archive(t, "new => old"), 0o644))
			res, err := b.apply(t, add("/t", "/"))
			check(t, err)
			if fileop.Recheck(b.parent, res.Lookups) {
				t.Errorf("the layer serves other parents; lookups %v", res.Lookups)
			}
		})
	}
}
