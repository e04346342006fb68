package revision

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

// TestViewIsCheckout makes random changes to a checkout, and compares the view of an earlier commit with that commit
// checked out elsewhere.
func TestViewIsCheckout(t *testing.T) {
	c := newRepository(t)
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
		if diff := cmp.Diff(files(t, fresh, nil), files(t, c.dir, view)); diff != "" {
			t.Fatalf("-checkout +view:\n%s", diff)
		}
		compareReads(t, fresh, c.dir, view)
	}
}

// TestEmptyUntrackedFolder: the view has no empty folder that git does not track inside a folder that the index lost.
func TestEmptyUntrackedFolder(t *testing.T) {
	c := newRepository(t)
	c.write(t, "d/a", "a")
	c.commit(t)
	want := files(t, c.dir, nil)
	c.git(t, "rm", "-q", "--cached", "d/a")
	if err := os.MkdirAll(filepath.Join(c.dir, "d/empty/deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, files(t, c.dir, viewOf(t, c.dir, "HEAD"))); diff != "" {
		t.Errorf("-commit +view:\n%s", diff)
	}
}

// TestAttributes: a file differs where its attributes convert it in another way. Other attributes do not count.
func TestAttributes(t *testing.T) {
	c := newRepository(t)
	c.write(t, "a.txt", "a\n")
	c.write(t, "d/b.txt", "b\n")
	c.write(t, "c.md", "c\n")
	c.commit(t)
	for attributes, same := range map[string]bool{"*.txt diff=cpp\n": true, "*.txt eol=crlf\n": false} {
		c.write(t, "d/.gitattributes", attributes)
		c.git(t, "add", "-A")
		now, then := files(t, c.dir, nil), files(t, c.dir, viewOf(t, c.dir, "HEAD"))
		if got := now["/d/b.txt"] == then["/d/b.txt"]; got != same {
			t.Errorf("%q: the file below is the same: got %v", attributes, got)
		}
		if now["/a.txt"] != then["/a.txt"] || now["/c.md"] != then["/c.md"] {
			t.Errorf("%q: a file elsewhere differs", attributes)
		}
	}
}

// TestSparse: a commit has the files that a sparse checkout leaves out.
func TestSparse(t *testing.T) {
	c := newRepository(t)
	c.write(t, "a/x", "x")
	c.write(t, "b/y", "y")
	c.commit(t)
	whole := files(t, c.dir, nil)
	c.git(t, "sparse-checkout", "set", "a")
	if _, err := os.Stat(filepath.Join(c.dir, "b/y")); err == nil {
		t.Fatal("the checkout is whole")
	}
	if diff := cmp.Diff(whole, files(t, c.dir, viewOf(t, c.dir, "HEAD"))); diff != "" {
		t.Errorf("-commit +view:\n%s", diff)
	}
}

// compareReads reads every file of a fresh checkout through the view too.
func compareReads(t *testing.T, fresh, dir string, view *View) {
	t.Helper()
	for path, want := range files(t, fresh, nil) {
		in, at := filepath.Join(fresh, path), filepath.Join(dir, path)
		info, err := os.Stat(in)
		switch {
		case err != nil:
			if _, err := view.File(at); err == nil && !strings.Contains(want, "link") {
				t.Errorf("%s: the view has a file that the checkout does not have", path)
			}
		case info.IsDir():
			if _, err := view.Folder(at); err != nil {
				t.Errorf("folder %s: %v", path, err)
			}
		default:
			content, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			real, err := view.File(at)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if got, err := os.ReadFile(real); err != nil || string(got) != string(content) {
				t.Errorf("%s: got %q %v, want %q", path, got, err, content)
			}
		}
	}
}

// repo is a git repository with a working tree.
type repo struct{ dir string }

// newRepository returns an empty repository.
func newRepository(t *testing.T) repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must not skip: needs git")
		}
		t.Skip("needs git")
	}
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	r := repo{t.TempDir()}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"config", "user.email", "a@b"}, {"config", "user.name", "a"},
	} {
		r.git(t, args...)
	}
	return r
}

func (r repo) git(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func (r repo) commit(t *testing.T) {
	t.Helper()
	r.git(t, "add", "-A")
	r.git(t, "commit", "-q", "--allow-empty", "-m", "x")
}

func (r repo) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err = errors.Join(err, os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// viewOf returns the view of a revision over the checkout in a directory.
func viewOf(t *testing.T, dir, revision string) *View {
	t.Helper()
	c, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	commit, err := c.Commit(t.Context(), revision)
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.View(t.Context(), commit)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// change changes files at random: their content, mode, type and place.
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
			err = errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755),
				os.WriteFile(path, fmt.Appendln(nil, r.IntN(100)), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// makeRoom removes files that are where a path needs a folder.
func makeRoom(top, path string) {
	for dir := filepath.Dir(path); dir != top; dir = filepath.Dir(dir) {
		if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
			_ = os.Remove(dir)
		}
	}
}

// files describes every file of a tree, except those of git.
func files(t *testing.T, dir string, patch tree.Patch) map[string]string {
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
