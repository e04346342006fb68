//go:build unix

package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// openFiles returns how many files this process has open.
func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(names)
}

// TestManyContexts: the contexts of one build keep few directories open, and each can be read at any time. A context
// whose directory was replaced while it was closed has changed.
func TestManyContexts(t *testing.T) {
	stat, err := OpenStatIndex(filepath.Join(t.TempDir(), "index"))
	if err != nil {
		t.Fatal(err)
	}
	var roots RootPool
	base, before := t.TempDir(), openFiles(t)
	all := make([]*Local, 10*maxIdleRoots)
	for i := range all {
		dir := filepath.Join(base, fmt.Sprint(i))
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644),
			os.WriteFile(filepath.Join(dir, "g"), []byte("y"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if all[i], err = OpenLocal(t.Context(), dir, nil, stat); err != nil {
			t.Fatal(err)
		}
		all[i].Share(&roots)
		if _, err := all[i].Lookup("/f"); err != nil {
			t.Fatal(err)
		}
	}
	if open := openFiles(t) - before; open > maxIdleRoots {
		t.Errorf("%d contexts keep %d files open", len(all), open)
	}
	moved := filepath.Join(base, "0")
	if err := errors.Join(os.Rename(moved, moved+"-moved"), os.Mkdir(moved, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := all[0].Digest(t.Context(), "/f"); !errors.Is(err, ErrChanged) {
		t.Errorf("a replaced directory: %v", err)
	}
	if err := errors.Join(os.Remove(moved), os.Rename(moved+"-moved", moved)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, l := range all {
		wg.Go(func() {
			for _, p := range []string{"/f", "/g"} {
				if _, err := l.Digest(t.Context(), p); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, l := range all {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if open := openFiles(t) - before; open > 0 {
		t.Errorf("%d files are open after all contexts were closed", open)
	}
}
