package cache

import (
	"os"
	"path/filepath"
	"testing"
)

// mounted opens a cache mount, marks it as filled and returns it.
func mounted(t *testing.T, s *Store, id, sharing string, fresh *FreshMounts) *Mount {
	t.Helper()
	m, err := s.CacheMount(t.Context(), id, sharing, fresh)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Filled(); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestFreshMounts: a build gets an empty mount and keeps it, while another build goes on with the old files or starts
// its own. Replaced files are removed when no build uses them.
func TestFreshMounts(t *testing.T) {
	for _, sharing := range []string{"shared", "private", "locked"} {
		t.Run(sharing, func(t *testing.T) {
			s := open(t, t.TempDir())
			old := mounted(t, s, "id", sharing, nil)
			put(t, old, "old")
			if sharing != "shared" {
				old.Release() // its lock would keep others waiting, or give them a copy
			}
			var one, two FreshMounts
			first := mounted(t, s, "id", sharing, &one)
			if has(first, "old") || !has(old, "old") {
				t.Error("the mount is not empty, or the old one was emptied")
			}
			put(t, first, "first")
			first.Release()
			second := mounted(t, s, "id", sharing, &two)
			if has(second, "first") || has(second, "old") {
				t.Error("the mount of the second build is not empty")
			}
			put(t, second, "second")
			second.Release()
			again := mounted(t, s, "id", sharing, &one)
			if !has(again, "first") {
				t.Error("a later step of the first build does not see its files")
			}
			again.Release()
			one.Close()
			two.Close()
			old.Release()
			last := mounted(t, s, "id", sharing, nil)
			if !has(last, "second") || last.New {
				t.Error("the next build does not see the newest files")
			}
			last.Release()
			left, err := filepath.Glob(filepath.Join(last.item, "*"))
			if err != nil {
				t.Fatal(err)
			}
			if len(left) != 3 { // current, lock, new-…
				t.Errorf("replaced files were not removed: %q", left)
			}
			if m, err := s.SeededMount("id"); err != nil || m == nil || !has(m, "second") {
				t.Errorf("the export of the mount: %v, %v", m, err)
			}
		})
	}
}

func put(t *testing.T, m *Mount, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.Dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func has(m *Mount, name string) bool {
	_, err := os.Stat(filepath.Join(m.Dir, name))
	return err == nil
}
