package executor_test

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
)

// memWritten remembers written directories in memory.
type memWritten map[string]map[string]string

func (m memWritten) Written(dest string) map[string]string { return maps.Clone(m[dest]) }

func (m memWritten) SetWritten(dest string, dirs map[string]string) error {
	m[dest] = dirs
	return nil
}

// TestLocalOverEarlier: a file replaces a directory that is empty or that earlier outputs wrote, and nothing else; a
// directory replaces a file.
func TestLocalOverEarlier(t *testing.T) {
	tree := map[string]string{"made/": "", "made/sub/": "", "made/sub/f": "old", "made/l": "-> sub/f", "x": "file"}
	for name, c := range map[string]struct {
		change func(t *testing.T, out string)
		ok     bool
	}{
		"unchanged":    {func(*testing.T, string) {}, true},
		"file added":   {func(t *testing.T, out string) { mustWrite(t, out+"/made/sub/mine", "mine") }, false},
		"file changed": {func(t *testing.T, out string) { mustWrite(t, out+"/made/sub/f", "new") }, false},
		"link changed": {func(t *testing.T, out string) { relink(t, out+"/made/l") }, false},
		"emptied":      {func(t *testing.T, out string) { empty(t, out+"/made") }, true},
		"added and emptied": {func(t *testing.T, out string) {
			empty(t, out+"/made")
			mustMkdir(t, out+"/made/d")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d, w := t.TempDir(), memWritten{}
			out := filepath.Join(d, "out")
			write := func(files map[string]string) error {
				b := built(t, "api", "amd64", config.Attrs{"type": "local", "dest": "out"})
				b.Files = func(_ context.Context, _ executor.LayerEncoding, w io.Writer) error {
					_, err := w.Write(tarOf(t, files))
					return err
				}
				_, err := executor.Export(context.Background(), []executor.Built{b},
					executor.ExportOptions{Dir: d, Written: w})
				return err
			}
			if err := write(tree); err != nil {
				t.Fatal(err)
			}
			c.change(t, out)
			err := write(map[string]string{"made": "now a file", "x/": "", "x/f": "in a directory"})
			if c.ok != (err == nil) {
				t.Fatalf("err = %v", err)
			}
			if err != nil {
				if want := out + "/made is a directory, which a file cannot replace; remove it"; !strings.Contains(
					err.Error(), want) {
					t.Errorf("err = %v, want %q", err, want)
				}
				if fi, err := os.Stat(out + "/x"); err != nil || fi.IsDir() {
					t.Errorf("the refused output changed x: %v, %v", fi, err)
				}
				return
			}
			got := string(read(t, out+"/made")) + ", " + string(read(t, out+"/x/f"))
			if got != "now a file, in a directory" {
				t.Errorf("got %q", got)
			}
			if err := write(tree); err != nil { // and back
				t.Error(err)
			}
		})
	}
}

func relink(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("elsewhere", name); err != nil {
		t.Fatal(err)
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	mustMkdir(t, dir)
}

func mustMkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}
