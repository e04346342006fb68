package cache

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// openArchives opens a cache that keeps layers as archives, as a process on a file system that cannot hold them.
func openArchives(t *testing.T, dir string) *Store {
	t.Helper()
	s := open(t, dir)
	if err := s.UnpackIn(t.TempDir(), "use a larger place"); err != nil {
		t.Fatal(err)
	}
	return s
}

// fillLayer creates files of each kind that a layer can have.
func fillLayer(t *testing.T, dir string) {
	t.Helper()
	p := func(name string) string { return filepath.Join(dir, name) }
	file := func(name, content string, mode os.FileMode) error {
		return errors.Join(os.WriteFile(p(name), []byte(content), 0o600), os.Chmod(p(name), mode))
	}
	sparse, err := os.Create(p("holes"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = sparse.WriteAt([]byte("middle"), 100<<20)
	err = errors.Join(err, sparse.Truncate(200<<20), sparse.Close(),
		os.Mkdir(p("dir"), 0o755), os.Mkdir(p("opaque"), 0o700), os.MkdirAll(p("a/b/c"), 0o755),
		file("empty", "", 0o644), file("dir/file", "content", 0o640), file("setuid", "#!", 0o755|os.ModeSetuid),
		file("none", "secret", 0), file("not utf-8 \xff\xfe", "x", 0o644),
		file(strings.Repeat("n", 255), "long", 0o644),
		file(".wh.file", "not a whiteout here", 0o644), os.Symlink("/nowhere/"+strings.Repeat("x", 300), p("link")),
		os.Link(p("dir/file"), p("a/b/hard")), os.Link(p("link"), p("a/symlink too")),
		unix.Mknod(p("fifo"), unix.S_IFIFO|0o622, 0), unix.Mknod(p("socket"), unix.S_IFSOCK|0o755, 0),
		unix.Mknod(p("whiteout"), unix.S_IFCHR, 0), os.Link(p("whiteout"), p("dir/whiteout too")),
		unix.Lsetxattr(p("dir/file"), "user.some", []byte("a\x00b\nc"), 0),
		unix.Lsetxattr(p("opaque"), "user.overlay.opaque", []byte("y"), 0),
		os.Chmod(p("dir"), 0o1777), os.Chmod(dir, 0o751))
	if os.Geteuid() == 0 {
		capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		acl := []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x0c\x00\x00\x00" +
			"\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")
		err = errors.Join(err, os.Lchown(p("setuid"), 7, 8), os.Chmod(p("setuid"), 0o755|os.ModeSetuid),
			os.Lchown(p("link"), 1<<31, 9), os.Lchown(p("a/b/c"), 4_000_000_000, 1), os.Lchown(dir, 3, 4),
			unix.Mknod(p("device"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 1_000_000))),
			unix.Lsetxattr(p("opaque"), "trusted.overlay.opaque", []byte("y"), 0),
			unix.Lsetxattr(p("empty"), "security.capability", capability, 0),
			unix.Lsetxattr(p("none"), "system.posix_acl_access", acl, 0))
	}
	for i, name := range []string{"empty", "link", "dir", "a", "whiteout", "."} {
		err = errors.Join(err, setTime(p(name), time.Unix(int64(1000*i-1), int64(i*111_111_111))))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// describeTree returns a line about each file with all that a step or overlayfs can see of it.
func describeTree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if first[st.Ino] == "" {
			first[st.Ino] = rel
		}
		line := fmt.Sprintf("%q %o %d:%d %d %d.%d %s", rel, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec,
			first[st.Ino])
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(raw))
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		xattrs := map[string]string{}
		if err := addXattrs(path, xattrs); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(xattrs)) {
			line += fmt.Sprintf(" %s=%q", name, xattrs[name])
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestArchive shows that a layer which is kept as an archive comes back with every attribute: for the process that
// wrote it, for a later one, and where layers can be directories of the cache.
func TestArchive(t *testing.T) {
	dir, id := t.TempDir(), digest.FromString("layer")
	s := openArchives(t, dir)
	d, err := s.NewLayer()
	if err != nil {
		t.Fatal(err)
	}
	fillLayer(t, d.FS)
	want := describeTree(t, d.FS)
	meta, err := MeasureLayer(d.FS)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(id, meta); err != nil {
		t.Fatal(err)
	}
	if size, _, err := diskSize(s.layerPath(id)); err != nil || size > 1<<20 {
		t.Errorf("the archive of a file with holes takes %d bytes, %v", size, err)
	}
	// The last one moves the files into the cache, if they can be there.
	later, ordinary := openArchives(t, dir), open(t, dir)
	for _, s := range []*Store{s, later, ordinary} {
		if s == ordinary && !HoldsLayers(dir) {
			continue
		}
		got, ok := s.LayerDir(id)
		if !ok {
			t.Fatal(s.MissingLayer(id))
		}
		if all := describeTree(t, got); !slices.Equal(all, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(all, "\n"), strings.Join(want, "\n"))
		}
		if found, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(found) > 0 {
			t.Errorf("check finds %v, %v", found, err)
		}
	}
}

// TestLayerWithoutArchive shows that a directory in the cache does not count where layers are archives: the file system
// may have lost attributes.
func TestLayerWithoutArchive(t *testing.T) {
	dir, id := t.TempDir(), digest.FromString("layer")
	putLayer(t, open(t, dir), id, "content")
	s := openArchives(t, dir)
	if s.HasLayer(id) {
		t.Error("the directory counts")
	}
	putLayer(t, s, id, "content")
	got, ok := s.LayerDir(id)
	if raw, err := os.ReadFile(filepath.Join(got, "file")); !ok || err != nil || string(raw) != "content" {
		t.Errorf("after a commit: %v, %q, %v", ok, raw, err)
	}
}

// TestDamagedArchive shows that a damaged archive is a miss, never a wrong layer, and that check finds it.
func TestDamagedArchive(t *testing.T) {
	ways := maps.Clone(damages)
	for _, at := range []int64{0, 300, 1025, 1600, 2050, 3000} {
		ways[fmt.Sprintf("byte %d", at)] = func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			b := make([]byte, 1)
			_, readErr := f.ReadAt(b, at)
			b[0] ^= 0x21
			_, err = f.WriteAt(b, at)
			return errors.Join(readErr, err, f.Close())
		}
	}
	for how, damage := range ways {
		t.Run(how, func(t *testing.T) {
			dir, id := t.TempDir(), digest.FromString("layer")
			putLayer(t, openArchives(t, dir), id, strings.Repeat("content", 500))
			path := filepath.Join(dir, dirLayers, id.Encoded(), archiveFile)
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			s := openArchives(t, dir)
			if found, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(found) != 1 {
				t.Errorf("check finds %v, %v", found, err)
			}
			if got, ok := s.LayerDir(id); ok {
				t.Errorf("it is unpacked to %v", describeTree(t, got))
			}
			if s.HasLayer(id) {
				t.Error("the damaged layer still counts")
			}
			putLayer(t, s, id, "again")
			if _, ok := s.LayerDir(id); !ok {
				t.Error(s.MissingLayer(id))
			}
			if found, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(found) > 0 {
				t.Errorf("after a commit check finds %v, %v", found, err)
			}
		})
	}
}

// TestFullPlace shows that an error about a full disk names the place of unpacked layers, not the cache.
func TestFullPlace(t *testing.T) {
	s := openArchives(t, t.TempDir())
	text := s.WriteError(unix.ENOSPC).Error()
	if !strings.Contains(text, s.unpacked.dir) || !strings.HasSuffix(text, "; use a larger place") ||
		strings.Contains(text, "prune") {
		t.Error(text)
	}
}
