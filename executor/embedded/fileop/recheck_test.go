package fileop_test

import (
	"os"
	"path/filepath"
	"testing"

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
