package config

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
)

func lockOf(refs ...string) *Lock {
	l := NewLock()
	for _, r := range refs {
		l.Images[r] = ImagePin{Digest: digest.FromString(r)}
	}
	return l
}

func TestLockRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if l, err := ReadLock(dir); l != nil || err != nil {
		t.Fatalf("got %v %v", l, err)
	}
	want := lockOf("docker.io/library/golang:1.26", "localhost:5000/a/b:1", "ghcr.io/x/y:z")
	want.Images["ghcr.io/x/y:z"] = ImagePin{digest.FromString("y"), "registry.example.com/mirror/x/y"}
	want.Git["https://github.com/acme/proto.git#main"] = strings.Repeat("a", 40)
	want.HTTP["https://example.com/a%20b?c=${d}&e=%{f}"] = digest.FromString("file")
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	crlf := strings.ReplaceAll(string(want.Format()), "\n", "\r\n")
	got, err = ParseLock("bake.lock", []byte(crlf))
	if err != nil || !cmp.Equal(want, got) {
		t.Fatalf("with CRLF: %v %v", got, err)
	}
	if text := got.Format(); strings.Contains(string(text), "\r") || string(text) != string(want.Format()) {
		t.Errorf("a lock read with CRLF is written as %q", text)
	}
}

// TestLockIsWrittenAtomically checks that a concurrent reader sees a complete old or new file, and that no temporary
// file remains.
func TestLockIsWrittenAtomically(t *testing.T) {
	dir := t.TempDir()
	one, many := lockOf("docker.io/library/a:1"), NewLock()
	for i := range 2000 {
		many.Images[fmt.Sprintf("docker.io/library/a:%d", i)] = ImagePin{Digest: digest.FromString("x")}
	}
	if err := one.Write(dir); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for i := range 10 {
			if err := []*Lock{many, one}[i%2].Write(dir); err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	for {
		l, err := ReadLock(dir)
		if err != nil || len(l.Images) != 1 && len(l.Images) != 2000 {
			t.Fatalf("got %v %v", l, err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
				t.Errorf("left behind: %v %v", left, err)
			}
			return
		default:
		}
	}
}

func TestLockRejects(t *testing.T) {
	good := string(lockOf("docker.io/library/a:1").Format())
	d := digest.FromString("x").String()
	for want, text := range map[string]string{
		"bake.lock:1":           "x",
		"version 2":             "version = 2\n",
		"duplicate pin":         good + strings.SplitN(good, "\n\n", 2)[1],
		"invalid digest":        "version = 1\nimage \"docker.io/library/a:1\" {\n  digest = \"x\"\n}\n",
		"is larger than":        strings.Repeat(" ", maxLock+1),
		"not normalised; write": "version = 1\nimage \"a\" {\n  digest = \"" + d + "\"\n}\n",
		"needs no pin": "version = 1\nimage \"docker.io/library/a:1@" + d + "\" {\n  digest = \"" + d +
			"\"\n}\n",
		"is not a repository": "version = 1\nimage \"docker.io/library/a:1\" {\n  digest = \"" + d +
			"\"\n  from = \"x:1\"\n}\n",
		"not a full commit hash": "version = 1\ngit \"https://x/y.git\" {\n  commit = \"abc\"\n}\n",
		"invalid URL":            "version = 1\nhttp \"https://x y\" {\n  checksum = \"" + d + "\"\n}\n",
		"merge conflicts":        "<<<<<<< HEAD\n" + good,
	} {
		if _, err := ParseLock("bake.lock", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// TestLockMerges changes the pins of ten images in separate commits and merges every pair of them with git.
func TestLockMerges(t *testing.T) {
	repo := newMergeRepo(t)
	var refs []string
	for i := range 10 {
		refs = append(refs, fmt.Sprintf("registry.example/team/image%d:1.%d", i/2, i))
	}
	repo.commit(lockOf(refs...), "base")
	bumped := func(i int) string { return fmt.Sprintf("bump%d", i) }
	for i, ref := range refs {
		l := lockOf(refs...)
		l.Images[ref] = ImagePin{Digest: digest.FromString("new")}
		repo.git("checkout", "-q", "-b", bumped(i), "base")
		repo.commit(l, "")
	}
	merges := 0
	for i := range refs {
		for j := range i {
			tree, err := repo.try("merge-tree", "--write-tree", bumped(i), bumped(j)) // a merge without a work tree
			if err != nil {
				t.Fatalf("%d and %d: %v\n%s", i, j, err, tree)
			}
			file, err := repo.try("cat-file", "blob", strings.TrimSpace(tree)+":"+LockName)
			if err != nil {
				t.Fatal(err)
			}
			merged, err := ParseLock(LockName, []byte(file))
			want := lockOf(refs...)
			bump := ImagePin{Digest: digest.FromString("new")}
			want.Images[refs[i]], want.Images[refs[j]] = bump, bump
			if err != nil || !cmp.Equal(want, merged) {
				t.Errorf("%d and %d: %v", i, j, err)
			}
			merges++
		}
	}
	if merges != 45 {
		t.Errorf("%d merges", merges)
	}
}

// TestConflictedLock checks that pins remain that only one side of a conflict has or on which both sides agree.
func TestConflictedLock(t *testing.T) {
	for _, style := range []string{"merge", "diff3"} {
		repo := newMergeRepo(t)
		names := []string{"docker.io/library/a:1", "docker.io/library/b:1", "docker.io/library/c:1"}
		repo.commit(lockOf(names...), "base")
		for _, side := range []string{"ours", "theirs"} {
			l := lockOf(append(names, "docker.io/library/"+side+":1")...)
			l.Images[names[1]] = ImagePin{Digest: digest.FromString(side)}
			l.Images[names[2]] = ImagePin{Digest: digest.FromString("both")}
			repo.git("checkout", "-q", "-b", side, "base")
			repo.commit(l, "")
		}
		if _, err := repo.try("-c", "merge.conflictStyle="+style, "merge", "-q", "ours"); err == nil {
			t.Fatal("there was no conflict")
		}
		if _, err := ReadLock(repo.dir); err == nil || !strings.Contains(err.Error(), "bake pin --resolve") {
			t.Errorf("got %v", err)
		}
		got, conflicted, err := ReadConflictedLock(repo.dir)
		if err != nil {
			t.Fatal(err)
		}
		want := lockOf(names[0], "docker.io/library/ours:1", "docker.io/library/theirs:1")
		want.Images[names[2]] = ImagePin{Digest: digest.FromString("both")}
		if d := cmp.Diff(want, got) + cmp.Diff([]string{names[1]}, conflicted); d != "" {
			t.Errorf("%s: %s", style, d)
		}
	}
}

// mergeRepo is a git repository with a lock file.
type mergeRepo struct {
	t   *testing.T
	dir string
}

func newMergeRepo(t *testing.T) mergeRepo {
	r := mergeRepo{t, t.TempDir()}
	r.git("init", "-q")
	return r
}

func (r mergeRepo) try(args ...string) (string, error) {
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c",
		"commit.gpgSign=false"}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r mergeRepo) git(args ...string) {
	r.t.Helper()
	if out, err := r.try(args...); err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// commit commits a lock and creates a branch at the commit, unless branch is empty.
func (r mergeRepo) commit(l *Lock, branch string) {
	r.t.Helper()
	if err := l.Write(r.dir); err != nil {
		r.t.Fatal(err)
	}
	r.git("add", LockName)
	r.git("commit", "-q", "-m", "pins")
	if branch != "" {
		r.git("branch", branch)
	}
}

// FuzzLock checks that every valid lock is the same after Format and ParseLock.
func FuzzLock(f *testing.F) {
	full := lockOf("docker.io/library/a:1")
	full.Images["ghcr.io/x/y:z"] = ImagePin{digest.FromString("y"), "registry.example.com/mirror"}
	full.Git["https://x/y.git#${a}"] = strings.Repeat("0", 40)
	full.HTTP["https://x/%{b}\\\"é"] = digest.FromString("file")
	f.Add(full.Format())
	f.Add([]byte("version = 1\r\n"))
	f.Add([]byte("<<<<<<< a\nversion = 1\n=======\n>>>>>>> b\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		splitConflict(src)
		l, err := ParseLock(LockName, src)
		if err != nil {
			return
		}
		again, err := ParseLock(LockName, l.Format())
		if err != nil {
			t.Fatalf("the formatted lock is invalid: %v\n%s", err, l.Format())
		}
		if d := cmp.Diff(l, again); d != "" {
			t.Error(d)
		}
	})
}

// TestRenovate matches the pattern in the README with a lock.
func TestRenovate(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var manager struct{ MatchStrings []string }
	for line := range strings.Lines(string(readme)) {
		if strings.HasPrefix(line, `{"customType": "regex"`) {
			if err := json.Unmarshal([]byte(line), &manager); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(manager.MatchStrings) != 1 {
		t.Fatal("the README has no custom manager")
	}
	l := lockOf("docker.io/library/golang:1.26", "localhost:5000/a/b:1")
	l.Images["localhost:5000/a/b:1"] = ImagePin{digest.FromString("b"), "registry.example.com/mirror/b"}
	l.Git["https://x/y.git#main"], l.HTTP["https://x/y"] = strings.Repeat("0", 40), digest.FromString("file")
	found := regexp.MustCompile(manager.MatchStrings[0]).FindAllStringSubmatch(string(l.Format()), -1)
	want := [][]string{
		{"docker.io/library/golang", "1.26", l.Pin("docker.io/library/golang:1.26")},
		{"localhost:5000/a/b", "1", l.Pin("localhost:5000/a/b:1")},
	}
	for i := range found {
		found[i] = found[i][1:]
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}
