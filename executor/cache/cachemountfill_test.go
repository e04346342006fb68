package cache

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestFailedFilling shows that a cache mount counts as filled only after Filled: a user that stops before leaves it to
// the next one to fill, without the files of the first.
func TestFailedFilling(t *testing.T) {
	s := open(t, t.TempDir())
	for _, sharing := range []string{"shared", "locked", "private"} {
		fill := func(name string) *Mount {
			m, err := s.CacheMount(t.Context(), sharing, sharing, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !m.New {
				t.Fatalf("%s: filled before %s", sharing, name)
			}
			if err := os.WriteFile(filepath.Join(m.Dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			return m
		}
		fill("first").Release()
		if m, err := s.SeededMount(sharing); m != nil || err != nil {
			t.Errorf("%s: a remote cache would export the half: %v, %v", sharing, m, err)
		}
		m := fill("second")
		if err := m.Filled(); err != nil {
			t.Fatal(err)
		}
		m.Release()
		m, err := s.CacheMount(t.Context(), sharing, sharing, nil)
		if err != nil || m.New {
			t.Fatalf("%s: %+v, %v", sharing, m, err)
		}
		if names := names(t, m.Dir); !slices.Equal(names, []string{"second"}) {
			t.Errorf("%s: got %q", sharing, names)
		}
		m.Release()
	}
}

// names returns the names in a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
