package cache

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// blocksBelow counts like du: the blocks of every inode once.
func blocksBelow(t *testing.T, dir string) int64 {
	t.Helper()
	var total int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if !seen[st.Ino] {
			total += st.Blocks * 512
		}
		seen[st.Ino] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// TestUsageOnDisk checks that hard links count once, holes count as nothing, and small files count with their blocks.
func TestUsageOnDisk(t *testing.T) {
	s := open(t, t.TempDir())
	putLinkedLayers(t, s)
	putBlob(t, s, "a small blob")
	useMount(t, s, "x", 100_000)
	for range 2 { // the second time with the sizes that the first one stored
		u, err := s.Usage()
		if err != nil {
			t.Fatal(err)
		}
		slack := int64(16 << 10) // the measurement itself writes the file of sizes
		if want := blocksBelow(t, s.dir); u.Total > want || u.Total < want-slack {
			t.Errorf("total %d, want %d", u.Total, want)
		}
		if u.Layers > 1<<20+100<<10 || u.Layers < 1<<20 {
			t.Errorf("layers take %d, want about a MiB", u.Layers)
		}
		if u.Mounts < 100_000 {
			t.Errorf("mounts take %d", u.Mounts)
		}
	}
	// A mount is measured again after a use.
	useMount(t, s, "y", 1<<20)
	if u, err := s.Usage(); err != nil || u.Mounts < 1<<20 {
		t.Errorf("mounts take %d, %v", u.Mounts, err)
	}
}

// putLinkedLayers commits two layers that share a file of one MiB by hard links, and a sparse file.
func putLinkedLayers(t *testing.T, s *Store) {
	t.Helper()
	draft := func() *Draft {
		d, err := s.NewLayer()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a, b := draft(), draft()
	big := filepath.Join(a.FS, "big")
	if err := os.WriteFile(big, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{a.FS + "/again", b.FS + "/shared", b.FS + "/twice"} {
		if err := os.Link(big, link); err != nil {
			t.Fatal(err)
		}
	}
	sparse := filepath.Join(b.FS, "sparse")
	if err := os.WriteFile(sparse, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 1<<40); err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]*Draft{"a": a, "b": b} {
		if err := d.Commit(digest.FromString(name), LayerMeta{Files: 4}); err != nil {
			t.Fatal(err)
		}
	}
}

// useMount writes a file to the cache mount.
func useMount(t *testing.T, s *Store, name string, size int) {
	t.Helper()
	m, err := s.CacheMount(t.Context(), "mount", "shared", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Release()
	if err := os.WriteFile(filepath.Join(m.Dir, name), make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
}

func putBlob(t testing.TB, s *Store, content string) digest.Digest {
	t.Helper()
	w, err := s.NewBlob()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	d, _, err := w.Commit("", -1)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestUsageByTarget(t *testing.T) {
	s := open(t, t.TempDir())
	for _, name := range []string{"a", "b", "both", "none"} {
		putLayer(t, s, digest.FromString(name), name)
	}
	project := t.TempDir()
	uses := []Use{
		{Target: "a", Layers: []digest.Digest{digest.FromString("a"), digest.FromString("both")}},
		{Target: "b", Layers: []digest.Digest{digest.FromString("b"), digest.FromString("both")}},
	}
	record := func(uses ...Use) {
		t.Helper()
		if err := s.RecordUses(project, uses); err != nil {
			t.Fatal(err)
		}
	}
	record(uses...)
	record(uses...)
	type share struct{ Target, Exclusive, Shared string }
	shares := func() []share {
		u, err := s.Usage()
		if err != nil {
			t.Fatal(err)
		}
		layer := u.Layers / 4
		var list []share
		for _, x := range append(u.Targets, TargetUsage{Target: "-", Exclusive: u.Unreferenced}) {
			list = append(list, share{x.Target, layers(x.Exclusive, layer), layers(x.Shared, layer)})
		}
		return list
	}
	if diff := cmp.Diff([]share{{"a", "1", "1"}, {"b", "1", "1"}, {"-", "1", "0"}}, shares()); diff != "" {
		t.Error(diff)
	}
	// Only b is built, with fewer layers: the record of a stays.
	record(Use{Target: "b", Layers: []digest.Digest{digest.FromString("b")}})
	if diff := cmp.Diff([]share{{"a", "2", "0"}, {"b", "1", "0"}, {"-", "1", "0"}}, shares()); diff != "" {
		t.Error(diff)
	}
	// The record goes with the project.
	if err := os.Remove(project); err != nil {
		t.Fatal(err)
	}
	l := leases{}
	if _, err := s.sweep(l); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]share{{"-", "4", "0"}}, shares()); diff != "" {
		t.Error(diff)
	}
}

// layers returns how many layers of the given size make up a number of bytes, as text.
func layers(bytes, size int64) string {
	return string(rune('0' + (bytes+size/2)/size))
}
