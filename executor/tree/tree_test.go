package tree_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/tree"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	check(t, os.MkdirAll(dir+"/a/b", 0o755))
	for name, target := range map[string]string{
		"/abs": "/a", "/a/up": "../../..", "/a/rel": "b", "/loop": "loop",
		"/dangling": "/none/x", "/escape": "/../../etc",
	} {
		check(t, os.Symlink(target, dir+name))
	}
	v, err := tree.OpenLocal(t.Context(), dir, nil, nil)
	check(t, err)
	defer v.Close()
	cases := []struct {
		path   string
		follow bool
		want   string
	}{
		{"/a/b", true, "/a/b"}, {"abs/rel", true, "/a/b"}, {"/abs/rel", false, "/a/rel"}, {"/a/up/a", true, "/a"},
		{"/dangling", true, "/none/x"}, {"/dangling", false, "/dangling"}, {"/../../a", true, "/a"},
		{"/escape", true, "/etc"},
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

// TestLocalStaysInside: a context never shows what its links point to, and a file that was swapped for a link is not
// read.
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

// TestDigestOfAnotherPlace holds what counts in a digest: what lands, not where it is from.
func TestDigestOfAnotherPlace(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a", "deep/b"} {
		check(t, os.MkdirAll(dir+"/"+d+"/sub", 0o755))
		check(t, os.WriteFile(dir+"/"+d+"/f", []byte("x"), 0o644))
		check(t, os.WriteFile(dir+"/"+d+"/sub/g", []byte("y"), 0o644))
	}
	check(t, os.WriteFile(dir+"/a/other", []byte("x"), 0o644))
	check(t, os.WriteFile(dir+"/a/sub.txt", []byte("y"), 0o644))
	l, err := tree.OpenLocal(t.Context(), dir, nil, nil)
	check(t, err)
	defer l.Close()
	sum := func(s tree.Selection) digest.Digest {
		t.Helper()
		d, err := tree.SelectionDigest(t.Context(), l, s)
		check(t, err)
		return d
	}
	for _, c := range []struct {
		what string
		a, b tree.Selection
		same bool
	}{
		{"a file", tree.Selection{Src: "/a/f"}, tree.Selection{Src: "/deep/b/f"}, true},
		{"another name", tree.Selection{Src: "/a/f"}, tree.Selection{Src: "/a/other"}, false},
		{"a name that the reader gives", tree.Selection{Src: "/a/f", Renamed: true},
			tree.Selection{Src: "/a/other", Renamed: true}, true},
		{"a directory", tree.Selection{Src: "/a/sub"}, tree.Selection{Src: "/deep/b/sub"}, true},
		{"the content of a directory",
			tree.Selection{Src: "/a", DirContents: true, Exclude: []string{"*.txt", "other"}},
			tree.Selection{Src: "/deep/b", DirContents: true}, true},
		{"a directory with its name", tree.Selection{Src: "/a", Exclude: []string{"*.txt", "other"}},
			tree.Selection{Src: "/deep/b"}, false},
		{"a wildcard", tree.Selection{Src: "/a/f*", Wildcard: true}, tree.Selection{Src: "/deep/b/f"}, true},
		{"one file less", tree.Selection{Src: "/a", DirContents: true},
			tree.Selection{Src: "/deep/b", DirContents: true}, false},
	} {
		if same := sum(c.a) == sum(c.b); same != c.same {
			t.Errorf("%s: same %t, want %t", c.what, same, c.same)
		}
	}
}
