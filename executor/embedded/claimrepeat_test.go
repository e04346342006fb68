package embedded

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// claimFiles returns the identities of the files of stored claims.
func (v *traveller) claimFiles() map[string]uint64 {
	v.t.Helper()
	all := map[string]uint64{}
	root := filepath.Join(v.store.Dir(), "claims")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all[path] = info.Sys().(*syscall.Stat_t).Ino
		}
		return err
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return all
}

// TestRepeatWritesNoClaim: a build that repeats another with the same caches writes no claim again, whether or not the
// layers are here. One whose caches come in another order records that once.
func TestRepeatWritesNoClaim(t *testing.T) {
	v := newTraveller(t, stagedFiles)
	dirs := []string{t.TempDir(), t.TempDir()}
	runs := []string{"count /base.txt", "count /tool", "copy /src.txt /out.txt"}
	for _, dir := range dirs {
		v.use(nil, local("dest", dir, "mode", "max"))
		v.mustRun(runs...)
		runs = nil
	}
	v.move(nil, nil)
	for _, order := range [][]string{{dirs[0], dirs[1]}, {dirs[1], dirs[0]}} {
		v.use2(order[0], order[1])
		v.must()
		before := v.claimFiles()
		if len(before) == 0 {
			t.Fatal("there are no claims")
		}
		v.must()
		v.built("/out.txt")
		v.must()
		if after := v.claimFiles(); !maps.Equal(before, after) {
			t.Errorf("written again: %d files of %d", countOther(before, after), len(after))
		}
	}
	// What is damaged is written again.
	path := slices.Sorted(maps.Keys(v.claimFiles()))[0]
	raw, err := os.ReadFile(path)
	if err != nil || os.WriteFile(path, append(raw[:len(raw)-1], 'x'), 0o600) != nil {
		t.Fatal(err)
	}
	v.must()
	v.noWarnings()
}

// countOther counts the files of b that are not those of a.
func countOther(a, b map[string]uint64) int {
	n := 0
	for path, inode := range b {
		if a[path] != inode {
			n++
		}
	}
	return n
}
