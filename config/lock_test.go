package config

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
)

func lockOf(refs ...string) *Lock {
	l := &Lock{Images: map[string]digest.Digest{}}
	for _, r := range refs {
		l.Images[r] = digest.FromString(r)
	}
	return l
}

func TestLockRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if l, err := ReadLock(dir); l != nil || err != nil {
		t.Fatalf("got %v %v", l, err)
	}
	want := lockOf("docker.io/library/golang:1.26", "localhost:5000/a/b:1", "ghcr.io/x/y:z")
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
	if got, err := ParseLock("bake.lock", []byte(crlf)); err != nil || !cmp.Equal(want, got) {
		t.Errorf("with CRLF: %v %v", got, err)
	}
}

func TestLockRefuses(t *testing.T) {
	good := string(lockOf("a:1").Format())
	for want, text := range map[string]string{
		"bake.lock:1":        "x",
		"version 2":          "version = 2\n",
		"is locked twice":    good + strings.SplitN(good, "\n\n", 2)[1],
		"is not like sha256": "version = 1\nimage \"a\" {\n  digest = \"x\"\n}\n",
		"more than":          strings.Repeat(" ", maxLock+1),
	} {
		if _, err := ParseLock("bake.lock", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// TestLockMerges merges every pair of bumps of ten images.
func TestLockMerges(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	var refs []string
	for i := range 10 {
		refs = append(refs, fmt.Sprintf("registry.example/team/image%d:1.%d", i/2, i))
	}
	dir := t.TempDir()
	file := func(name string, bumped int) string {
		l := lockOf(refs...)
		if bumped >= 0 {
			l.Images[refs[bumped]] = digest.FromString("new")
		}
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, l.Format(), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	merges := 0
	for i := range refs {
		for j := range i {
			out, err := exec.Command("git", "merge-file", "-p", file("ours", i), file("base", -1), file("theirs", j)).CombinedOutput()
			if err != nil {
				t.Errorf("%d and %d: %v\n%s", i, j, err, out)
			}
			merged, err := ParseLock("merged", out)
			if err != nil || merged.Images[refs[i]] != digest.FromString("new") || merged.Images[refs[j]] != digest.FromString("new") {
				t.Errorf("%d and %d: %v", i, j, err)
			}
			merges++
		}
	}
	if merges != 45 {
		t.Errorf("%d merges", merges)
	}
}

// TestRenovate tries the pattern of the README on a lock.
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
		t.Fatal("the README has no manager")
	}
	l := lockOf("docker.io/library/golang:1.26", "localhost:5000/a/b:1")
	found := regexp.MustCompile(manager.MatchStrings[0]).FindAllStringSubmatch(string(l.Format()), -1)
	want := [][]string{
		{"docker.io/library/golang", "1.26", l.Images["docker.io/library/golang:1.26"].String()},
		{"localhost:5000/a/b", "1", l.Images["localhost:5000/a/b:1"].String()},
	}
	for i := range found {
		found[i] = found[i][1:]
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}
