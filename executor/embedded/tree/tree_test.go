package tree_test

import (
	"errors"
	"fmt"
	"io/fs"
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

	"github.com/bakebuild/bake/executor/embedded/tree"
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

// list shows all of a tree: names, modes, owners, links and contents.
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

// TestViewAsOverlay: what a view shows of random layers is what the kernel shows of them as an overlay.
func TestViewAsOverlay(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range 40 {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		base := t.TempDir()
		var dirs []string
		var layers []tree.Layer
		for n := range 2 + r.IntN(3) {
			dir := filepath.Join(base, fmt.Sprint(n))
			check(t, os.Mkdir(dir, 0o755))
			grow(t, r, dir, dirs)
			dirs = append([]string{dir}, dirs...)
			layers = append(layers, tree.Layer{ID: digest.FromString(dir), Dir: dir})
		}
		merged := filepath.Join(base, "merged")
		check(t, os.Mkdir(merged, 0o755))
		mountOverlay(t, merged, dirs)
		ours := tree.NewView(layers)
		got, want := list(t, ours), listDisk(t, merged, "/")
		check(t, errors.Join(ours.Close(), unix.Unmount(merged, unix.MNT_DETACH)))
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("seed %d round %d: kernel -, ours +\n%s", seed, i, d)
		}
	}
}

// listDisk is list for a directory. The kernel lists a whiteout that hides nothing, but has no such file.
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
		skip(t, "needs to mount overlays: "+err.Error())
	}
}

// grow makes random files, and the marks that hide what the layers below have.
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
		marks := slices.ContainsFunc(below, func(b string) bool {
			_, err := os.Lstat(b + strings.TrimPrefix(p, dir))
			return err == nil
		})
		switch k := r.IntN(10); {
		case k < 4:
			check(t, os.WriteFile(p, []byte(fmt.Sprint(r.IntN(100))), 0o600+os.FileMode(r.IntN(8))))
		case k < 6:
			check(t, os.Symlink(pick(), p))
		case k < 8 || !marks:
			check(t, os.Mkdir(p, 0o700+os.FileMode(r.IntN(8))))
		case k < 9:
			if err := unix.Mknod(p, unix.S_IFCHR, 0); err != nil {
				skip(t, "needs to make whiteouts: "+err.Error())
			}
		default:
			check(t, os.Mkdir(p, 0o755))
			if err := unix.Setxattr(p, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
				skip(t, "needs to mark opaque directories: "+err.Error())
			}
		}
	}
}

// TestIndex: the index of a layer shows what its directory does, and survives being stored.
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
		node("/d/f", unix.S_IFREG|0o640, ""), node("/d/l", unix.S_IFLNK|0o777, "f"), {Entry: tree.Entry{Path: "/d/gone"}, Whiteout: true},
	})
	raw, err := x.MarshalBinary()
	check(t, err)
	again := new(tree.Index)
	check(t, again.UnmarshalBinary(raw))
	v := tree.NewView([]tree.Layer{{ID: "below", Dir: below}, {ID: "packed", Index: again}})
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
	var packed *tree.PackedError
	if _, err := v.Open("/d/f"); !errors.As(err, &packed) || packed.LayerID != "packed" {
		t.Errorf("the content of a packed layer: %v", err)
	}
	for cut := range len(raw) {
		if new(tree.Index).UnmarshalBinary(raw[:cut]) == nil {
			t.Fatalf("a stored index cut at %d is taken", cut)
		}
	}
}

// TestTouches: any entry at a name counts, also one that only hides what is below.
func TestTouches(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, "usr"), 0o755))
	check(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	for name, want := range map[string]bool{"usr": true, "link": true, "etc": false} {
		if got := tree.Touches(dir, map[string]bool{name: true}); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if !tree.Touches(filepath.Join(dir, "gone"), nil) {
		t.Error("a layer that is not there touches nothing")
	}
	if err := unix.Setxattr(dir, "user.overlay.opaque", []byte("y"), 0); errors.Is(err, unix.ENOTSUP) {
		skip(t, "no extended attributes here")
	}
	if !tree.Touches(dir, map[string]bool{"etc": true}) {
		t.Error("a root that hides all below touches nothing")
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	check(t, os.MkdirAll(dir+"/a/b", 0o755))
	for name, target := range map[string]string{
		"/abs": "/a", "/a/up": "../../..", "/a/rel": "b", "/loop": "loop", "/dangling": "/none/x", "/escape": "/../../etc",
	} {
		check(t, os.Symlink(target, dir+name))
	}
	v := tree.NewView([]tree.Layer{{ID: "l", Dir: dir}})
	defer v.Close()
	cases := []struct {
		path   string
		follow bool
		want   string
	}{
		{"/a/b", true, "/a/b"}, {"abs/rel", true, "/a/b"}, {"/abs/rel", false, "/a/rel"}, {"/a/up/a", true, "/a"},
		{"/dangling", true, "/none/x"}, {"/dangling", false, "/dangling"}, {"/../../a", true, "/a"}, {"/escape", true, "/etc"},
		{"/a/./b/../b/", true, "/a/b"}, {"", true, "/"}, {"/none/deep", true, "/none/deep"},
	}
	for _, c := range cases {
		got, err := tree.Resolve(v, c.path, c.follow)
		if err != nil || got != c.want {
			t.Errorf("%q (%v): got %q %v, want %q", c.path, c.follow, got, err, c.want)
		}
	}
	if _, err := tree.Resolve(v, "/loop", true); !errors.Is(err, tree.ErrLoop) {
		t.Errorf("loop: %v", err)
	}
}

func TestLocal(t *testing.T) {
	cases := []struct {
		name   string
		ignore []string
		want   string
	}{
		{"all", nil, ".git/HEAD a.txt dir/b.txt dir/sub/c.txt link node_modules/x.js"},
		{"folder", []string{"node_modules", ".git"}, "a.txt dir/b.txt dir/sub/c.txt link"},
		{"pattern", []string{"**/*.txt"}, ".git/HEAD link node_modules/x.js"},
		{"exception", []string{"dir", "!dir/sub/c.txt"}, ".git/HEAD a.txt dir/sub/c.txt link node_modules/x.js"},
		{"everything but", []string{"*", "!dir/**", "dir/sub"}, "dir/b.txt"},
	}
	dir := t.TempDir()
	for _, f := range []string{".git/HEAD", "a.txt", "dir/b.txt", "dir/sub/c.txt", "node_modules/x.js"} {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, f), []byte(f), 0o644))
	}
	check(t, os.Symlink("/etc/passwd", dir+"/link"))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l, err := tree.OpenLocal(t.Context(), dir, c.ignore, nil)
			check(t, err)
			defer l.Close()
			if got := strings.Join(files(t, l, "/"), " "); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if e, err := l.Lookup("/"); err != nil || e.UID != 0 || e.GID != 0 {
				t.Errorf("the root: %v %v", e, err)
			}
		})
	}
}

// files are the paths of a tree that are no directories.
func files(t *testing.T, f tree.FS, dir string) []string {
	t.Helper()
	entries, err := f.ReadDir(dir)
	check(t, err)
	var all []string
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, files(t, f, e.Path)...)
			continue
		}
		all = append(all, strings.TrimPrefix(e.Path, "/"))
	}
	return all
}

// TestLocalStaysInside: a context never shows what its links point to, and a file that was swapped for a link is not read.
func TestLocalStaysInside(t *testing.T) {
	outside := t.TempDir()
	check(t, os.WriteFile(outside+"/secret", []byte("secret"), 0o644))
	dir := t.TempDir()
	check(t, os.Symlink(outside, dir+"/link"))
	check(t, os.Mkdir(dir+"/d", 0o755))
	check(t, os.WriteFile(dir+"/d/secret", []byte("mine"), 0o644))
	l, err := tree.OpenLocal(t.Context(), dir, nil, nil)
	check(t, err)
	defer l.Close()
	if _, err := l.Lookup("/link/secret"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("through a link: %v", err)
	}
	if _, err := l.Lookup("/d/secret"); err != nil {
		t.Fatal(err)
	}
	check(t, os.RemoveAll(dir+"/d"))
	check(t, os.Symlink(outside, dir+"/d"))
	if f, err := l.Open("/d/secret"); err == nil {
		f.Close()
		t.Error("a folder that was swapped for a link is followed")
	}
}

// TestStatIndex: digests are remembered by what stat shows, also between runs, and forgotten when that changes.
func TestStatIndex(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "index")
	name := dir + "/f"
	digestOf := func(stat *tree.StatIndex) digest.Digest {
		t.Helper()
		l, err := tree.OpenLocal(t.Context(), dir, nil, stat)
		check(t, err)
		defer l.Close()
		d, err := l.Digest(t.Context(), "/f")
		check(t, err)
		return d
	}
	old := time.Now().Add(-time.Hour)
	for _, content := range []string{"one", "two", "other size"} {
		check(t, os.WriteFile(name, []byte(content), 0o644))
		check(t, os.Chtimes(name, old, old))
		for range 2 {
			stat, err := tree.OpenStatIndex(file)
			check(t, err)
			if got, want := digestOf(stat), digest.FromString(content); got != want {
				t.Errorf("%q: got %s, want %s", content, got, want)
			}
			check(t, stat.Save())
		}
	}
	check(t, os.WriteFile(file, []byte("garbage"), 0o600))
	stat, err := tree.OpenStatIndex(file)
	check(t, err)
	if got := digestOf(stat); got != digest.FromString("other size") {
		t.Errorf("with a damaged index: %s", got)
	}
}

// TestSelectionDigest: the digest of a selection changes with what a copy would copy, and with nothing else.
func TestSelectionDigest(t *testing.T) {
	dir := t.TempDir()
	check(t, os.MkdirAll(dir+"/d/e", 0o755))
	check(t, os.WriteFile(dir+"/d/f", []byte("x"), 0o644))
	check(t, os.WriteFile(dir+"/other", []byte("x"), 0o644))
	sum := func(s tree.Selection) digest.Digest {
		t.Helper()
		l, err := tree.OpenLocal(t.Context(), dir, nil, nil)
		check(t, err)
		defer l.Close()
		d, err := tree.SelectionDigest(t.Context(), l, s)
		check(t, err)
		return d
	}
	s := tree.Selection{Src: "/d", Follow: true, DirContents: true}
	seen := map[digest.Digest]string{sum(s): "at first"}
	same := func(what string) {
		t.Helper()
		if _, ok := seen[sum(s)]; !ok {
			t.Errorf("the digest changed: %s", what)
		}
	}
	differs := func(what string) {
		t.Helper()
		if was, ok := seen[sum(s)]; ok {
			t.Errorf("the digest is that of %q: %s", was, what)
		}
		seen[sum(s)] = what
	}
	check(t, os.Chtimes(dir+"/d/f", time.Unix(1, 0), time.Unix(1, 0)))
	same("another time")
	check(t, os.WriteFile(dir+"/other", []byte("y"), 0o644))
	same("a file elsewhere")
	check(t, os.WriteFile(dir+"/d/f", []byte("z"), 0o644))
	differs("content")
	check(t, os.Chmod(dir+"/d/f", 0o600))
	differs("mode")
	check(t, os.Mkdir(dir+"/d/new", 0o755))
	differs("an empty folder")
	check(t, os.Symlink("f", dir+"/d/l"))
	differs("a link")
	check(t, os.Remove(dir+"/d/l"))
	check(t, os.Link(dir+"/d/f", dir+"/d/l"))
	differs("a hard link")
	check(t, os.Remove(dir+"/d/l"))
	check(t, os.WriteFile(dir+"/d/l", []byte("z"), 0o600))
	differs("a copy instead of a hard link")
	s.Exclude = []string{"l"}
	if _, err := os.Stat(dir + "/d/l"); err != nil {
		t.Fatal(err)
	}
	before := sum(s)
	check(t, os.WriteFile(dir+"/d/l", []byte("changed"), 0o600))
	if sum(s) != before {
		t.Error("a file that is excluded counts")
	}
}
