package layerfs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// list returns one line for each path of a tree: its name, mode, owner, link target and content digest.
func list(t *testing.T, f tree.FS) []string {
	t.Helper()
	var all []string
	var walk func(p string)
	walk = func(p string) {
		e, err := f.Lookup(p)
		check(t, err)
		line := fmt.Sprintf("%s %o %d:%d %s", p, e.Mode, e.UID, e.GID, e.Link)
		if e.IsRegular() {
			d, err := f.Digest(t.Context(), p)
			check(t, err)
			line += " " + d.Encoded()[:8]
		}
		all = append(all, line)
		if !e.IsDir() {
			return
		}
		entries, err := f.ReadDir(p)
		check(t, err)
		for _, e := range entries {
			walk(e.Path)
		}
	}
	walk("/")
	return all
}

// TestViewAsOverlay compares a view of random layers with the kernel's overlay mount of them.
func TestViewAsOverlay(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range 40 {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		base := t.TempDir()
		var dirs []string
		var layers []layerfs.Layer
		for n := range 2 + r.IntN(3) {
			dir := filepath.Join(base, fmt.Sprint(n))
			check(t, os.Mkdir(dir, 0o755))
			grow(t, r, dir, dirs)
			dirs = append([]string{dir}, dirs...)
			layers = append(layers, layerfs.Layer{ID: digest.FromString(dir), Dir: dir})
		}
		merged := filepath.Join(base, "merged")
		check(t, os.Mkdir(merged, 0o755))
		mountOverlay(t, merged, dirs)
		ours := layerfs.NewView(layers)
		got, want := list(t, ours), listDisk(t, merged, "/")
		check(t, errors.Join(ours.Close(), unix.Unmount(merged, unix.MNT_DETACH)))
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("seed %d round %d (-kernel +view)\n%s", seed, i, d)
		}
	}
}

// listDisk is like list, for a directory on disk. It skips a whiteout that hides nothing: the kernel lists its name,
// but the file does not exist.
func listDisk(t *testing.T, root, p string) []string {
	t.Helper()
	full := filepath.Join(root, p)
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		t.Fatal(err)
	}
	link, _ := os.Readlink(full)
	line := fmt.Sprintf("%s %o %d:%d %s", p, st.Mode, st.Uid, st.Gid, link)
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		raw, err := os.ReadFile(full)
		check(t, err)
		line += " " + digest.FromBytes(raw).Encoded()[:8]
	}
	all := []string{line}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return all
	}
	entries, err := os.ReadDir(full)
	check(t, err)
	for _, e := range entries {
		all = append(all, listDisk(t, root, filepath.Join(p, e.Name()))...)
	}
	return all
}

func mountOverlay(t *testing.T, at string, lower []string) {
	t.Helper()
	if err := unix.Mount("overlay", at, "overlay", 0, "lowerdir="+strings.Join(lower, ":")); err != nil {
		skip(t, "cannot mount overlays: "+err.Error())
	}
}

// grow creates random files, and whiteouts and opaque directories that hide files of the layers below.
func grow(t *testing.T, r *rand.Rand, dir string, below []string) {
	t.Helper()
	names := []string{"a", "b", "c"}
	pick := func() string { return names[r.IntN(len(names))] }
	for range 8 {
		p := filepath.Join(dir, pick())
		for range r.IntN(3) {
			p = filepath.Join(p, pick())
		}
		if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
			continue
		}
		if _, err := os.Lstat(p); err == nil {
			continue
		}
		hides := slices.ContainsFunc(below, func(b string) bool {
			_, err := os.Lstat(b + strings.TrimPrefix(p, dir))
			return err == nil
		})
		switch k := r.IntN(10); {
		case k < 4:
			check(t, os.WriteFile(p, []byte(fmt.Sprint(r.IntN(100))), 0o600+os.FileMode(r.IntN(8))))
		case k < 6:
			check(t, os.Symlink(pick(), p))
		case k < 8 || !hides:
			check(t, os.Mkdir(p, 0o700+os.FileMode(r.IntN(8))))
		case k < 9:
			if err := unix.Mknod(p, unix.S_IFCHR, 0); err != nil {
				skip(t, "cannot create whiteouts: "+err.Error())
			}
		default:
			check(t, os.Mkdir(p, 0o755))
			if err := unix.Setxattr(p, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
				skip(t, "cannot mark opaque directories: "+err.Error())
			}
		}
	}
}

// TestIndex: a packed layer lists the files in its index, hides the files that it removes, and cannot open files. A
// truncated index is an error.
func TestIndex(t *testing.T) {
	dir := t.TempDir()
	check(t, os.MkdirAll(dir+"/d/e", 0o755))
	check(t, os.WriteFile(dir+"/d/f", []byte("x"), 0o640))
	check(t, os.Symlink("f", dir+"/d/l"))
	below := t.TempDir()
	check(t, os.MkdirAll(below+"/d/gone", 0o755))
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	node := func(p string, mode uint32, link string) tree.Node {
		return tree.Node{Entry: tree.Entry{Path: p, Mode: mode, UID: uid, GID: gid, Link: link, Size: 1}}
	}
	x := tree.NewIndex([]tree.Node{
		node("/", unix.S_IFDIR|0o755, ""), node("/d", unix.S_IFDIR|0o755, ""), node("/d/e", unix.S_IFDIR|0o755, ""),
		node("/d/f", unix.S_IFREG|0o640, ""), node("/d/l", unix.S_IFLNK|0o777, "f"),
		{Entry: tree.Entry{Path: "/d/gone"}, Whiteout: true},
	})
	raw, err := x.MarshalBinary()
	check(t, err)
	again := new(tree.Index)
	check(t, again.UnmarshalBinary(raw))
	v := layerfs.NewView([]layerfs.Layer{{ID: "below", Dir: below}, {ID: "packed", Index: again}})
	defer v.Close()
	entries, err := v.ReadDir("/d")
	check(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"e", "f", "l"}) {
		t.Errorf("got %v", names)
	}
	var packed *layerfs.PackedError
	if _, err := v.Open("/d/f"); !errors.As(err, &packed) || packed.LayerID != "packed" {
		t.Errorf("open a file of a packed layer: %v", err)
	}
	for cut := range len(raw) {
		if new(tree.Index).UnmarshalBinary(raw[:cut]) == nil {
			t.Fatalf("a stored index of %d bytes was accepted", cut)
		}
	}
}

// TestTouches: a directory and a link at a name count, and so does a root that hides everything below it.
func TestTouches(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, "usr"), 0o755))
	check(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	for name, want := range map[string]bool{"usr": true, "link": true, "etc": false} {
		if got := layerfs.Touches(dir, map[string]bool{name: true}); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if !layerfs.Touches(filepath.Join(dir, "gone"), nil) {
		t.Error("Touches reports false for a missing directory")
	}
	if err := unix.Setxattr(dir, "user.overlay.opaque", []byte("y"), 0); errors.Is(err, unix.ENOTSUP) {
		skip(t, "no extended attributes here")
	}
	if !layerfs.Touches(dir, map[string]bool{"etc": true}) {
		t.Error("Touches reports false for an opaque root")
	}
}
