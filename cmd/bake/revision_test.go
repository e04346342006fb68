package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/executor/tree"
)

// TestRevisionIsCheckout makes random changes to a checkout, and compares what the view of an earlier commit shows over it with that
// commit checked out elsewhere.
func TestRevisionIsCheckout(t *testing.T) {
	c := newGit(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	c.write(t, ".gitignore", "*.out\n")
	for range 25 {
		change(t, r, c.dir, 8)
		c.commit(t)
		change(t, r, c.dir, 5)
		if r.IntN(3) == 0 {
			c.git(t, "add", "-A")
		}
		view := viewOf(t, c.dir, "HEAD")
		fresh := filepath.Join(t.TempDir(), "fresh")
		c.git(t, "worktree", "add", "-q", "--detach", fresh, "HEAD")
		if err := os.Remove(filepath.Join(fresh, ".git")); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(shown(t, fresh, nil), shown(t, c.dir, view)); diff != "" {
			t.Fatalf("-checked out +viewed:\n%s", diff)
		}
		compareReads(t, fresh, c.dir, view)
	}
}

// TestRevisionAttributes: attributes that write a file otherwise make it another one, and others do not.
func TestRevisionAttributes(t *testing.T) {
	c := newGit(t)
	c.write(t, "a.txt", "a\n")
	c.write(t, "d/b.txt", "b\n")
	c.write(t, "c.md", "c\n")
	c.commit(t)
	for attributes, same := range map[string]bool{"*.txt diff=words\n": true, "*.txt eol=crlf\n": false} {
		c.write(t, "d/.gitattributes", attributes)
		c.git(t, "add", "-A")
		now, then := shown(t, c.dir, nil), shown(t, c.dir, viewOf(t, c.dir, "HEAD"))
		if got := now["/d/b.txt"] == then["/d/b.txt"]; got != same {
			t.Errorf("%q: the file below is the same: %v", attributes, got)
		}
		if now["/a.txt"] != then["/a.txt"] || now["/c.md"] != then["/c.md"] {
			t.Errorf("%q: a file elsewhere is another one", attributes)
		}
	}
}

// TestRevisionSparse: what a sparse checkout leaves out is in the commit all the same.
func TestRevisionSparse(t *testing.T) {
	c := newGit(t)
	c.write(t, "a/x", "x")
	c.write(t, "b/y", "y")
	c.commit(t)
	whole := shown(t, c.dir, nil)
	c.git(t, "sparse-checkout", "set", "a")
	if _, err := os.Stat(filepath.Join(c.dir, "b/y")); err == nil {
		t.Fatal("the checkout is whole")
	}
	if diff := cmp.Diff(whole, shown(t, c.dir, viewOf(t, c.dir, "HEAD"))); diff != "" {
		t.Errorf("-committed +viewed:\n%s", diff)
	}
}

// compareReads reads every file that a checkout has by way of the view.
func compareReads(t *testing.T, fresh, dir string, view *revision) {
	t.Helper()
	for path, want := range shown(t, fresh, nil) {
		in, at := filepath.Join(fresh, path), filepath.Join(dir, path)
		info, err := os.Stat(in)
		switch {
		case err != nil:
			if _, err := view.File(at); err == nil && !strings.Contains(want, "link") {
				t.Errorf("%s is not there, and the view has it", path)
			}
		case info.IsDir():
			if _, err := view.Folder(at); err != nil {
				t.Errorf("folder %s: %v", path, err)
			}
		default:
			wanted, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			real, err := view.File(at)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if got, err := os.ReadFile(real); err != nil || string(got) != string(wanted) {
				t.Errorf("%s: got %q %v, want %q", path, got, err, wanted)
			}
		}
	}
}

// newGit is an empty repository.
func newGit(t *testing.T) *cli {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		skip(t, "needs git")
	}
	c := newCLI(t)
	c.env["GIT_CONFIG_GLOBAL"] = "/dev/null"
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"config", "user.email", "a@b"}, {"config", "user.name", "a"}} {
		c.git(t, args...)
	}
	return c
}

// viewOf is the view of a revision over the checkout in a directory.
func viewOf(t *testing.T, dir, revision string) *revision {
	t.Helper()
	repo, err := openRepository(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	commit, err := repo.commit(t.Context(), revision)
	if err != nil {
		t.Fatal(err)
	}
	all := &objects{repository: repo, ctx: t.Context()}
	t.Cleanup(func() { _ = all.Close() })
	v, err := repo.revision(t.Context(), commit, all, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// change changes files at random: content, mode, kind, place.
func change(t *testing.T, r *rand.Rand, dir string, times int) {
	t.Helper()
	names := []string{"a", "b", "x.out", "d", "d/a", "d/b.out", "d/e/a", "d/e/f/g", "h/a", "h/i"}
	for range times {
		path := filepath.Join(dir, names[r.IntN(len(names))])
		makeRoom(dir, path)
		info, err := os.Lstat(path)
		regular := err == nil && info.Mode().IsRegular()
		switch kind := r.IntN(6); {
		case kind == 0:
			err = os.RemoveAll(path)
		case kind == 1 && regular:
			err = os.Chmod(path, info.Mode().Perm()^0o111)
		case kind == 2:
			to := []string{"a", "../b", "nothing", "d/e"}[r.IntN(4)]
			err = errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(to, path))
		case regular:
			err = os.WriteFile(path, fmt.Appendln(nil, r.IntN(1000)), 0o644)
		default:
			err = errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, fmt.Appendln(nil, r.IntN(100)), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// makeRoom removes what stands where a path needs a folder.
func makeRoom(top, path string) {
	for dir := filepath.Dir(path); dir != top; dir = filepath.Dir(dir) {
		if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
			_ = os.Remove(dir)
		}
	}
}

// shown describes every file of a tree, but for git's own.
func shown(t *testing.T, dir string, patch tree.Patch) map[string]string {
	t.Helper()
	l, err := tree.OpenPatched(t.Context(), dir, []string{".git"}, nil, patch)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all := map[string]string{}
	var walk func(p string)
	walk = func(p string) {
		entries, err := l.ReadDir(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			what := fmt.Sprintf("%o", e.Mode)
			switch {
			case e.IsDir():
				walk(e.Path)
			case e.IsLink():
				what = "link " + e.Link
			default:
				content, err := l.Digest(t.Context(), e.Path)
				if err != nil {
					t.Fatal(err)
				}
				what += " " + content.String()
			}
			all[e.Path] = what
		}
	}
	walk("/")
	return all
}
