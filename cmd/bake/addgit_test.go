package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAddGit: ADD of a git repository brings the files of what its reference stands for at each build.
func TestAddGit(t *testing.T) {
	site := newRemoteSite(t)
	site.commit(t, "main", map[string]string{"a.txt": "one", "sub/b.txt": "b", "sub/run.sh": "#!/bin/sh\n"})
	first := git(t, site.work, "rev-parse", "HEAD")
	repo := site.url + "/repo.git"
	dir, cache := t.TempDir(), t.TempDir()
	build := func(dockerfile string) (int, string) {
		writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\n"+dockerfile+"\n")
		writeFile(t, filepath.Join(dir, "bake.hcl"), "target \"default\" {\n  output = [\"type=tar,dest=out.tar\"]\n}\n")
		code, _, stderr := runIn(t, dir, cache, "build", "--progress=none")
		return code, stderr
	}
	for _, c := range []struct {
		dockerfile string
		want       map[string]string
	}{
		{"ADD " + repo + "#main /r", map[string]string{"r/a.txt": "one", "r/sub/b.txt": "b", "r/sub/run.sh": "#!/bin/sh\n"}},
		{"ADD " + repo + "#main:sub /r", map[string]string{"r/b.txt": "b", "r/run.sh": "#!/bin/sh\n"}},
		{"ADD --checksum=" + first + " " + repo + "#main:sub /r", map[string]string{"r/b.txt": "b", "r/run.sh": "#!/bin/sh\n"}},
		{"ADD " + repo + "#" + first + ":sub /r", map[string]string{"r/b.txt": "b", "r/run.sh": "#!/bin/sh\n"}},
	} {
		if code, stderr := build(c.dockerfile); code != 0 {
			t.Fatalf("%s: %s", c.dockerfile, stderr)
		}
		if d := cmp.Diff(c.want, tarFiles(t, filepath.Join(dir, "out.tar"))); d != "" {
			t.Errorf("%s: want -, got +\n%s", c.dockerfile, d)
		}
	}
	if code, stderr := build("ADD --keep-git-dir=true " + repo + "#main /r"); code != 0 {
		t.Error(stderr)
	} else if _, ok := tarFiles(t, filepath.Join(dir, "out.tar"))["r/.git/HEAD"]; !ok {
		t.Error("--keep-git-dir keeps none")
	}
	site.commit(t, "main", map[string]string{"a.txt": "two"})
	if code, stderr := build("ADD " + repo + "#main /r"); code != 0 {
		t.Error(stderr)
	} else if got := tarFiles(t, filepath.Join(dir, "out.tar"))["r/a.txt"]; got != "two" {
		t.Errorf("after a commit a.txt is %q", got)
	}
	for dockerfile, want := range map[string]string{
		"ADD " + repo + "#nope /r":                          "no branch or tag nope",
		"ADD " + repo + "#main:nope /r":                     "nope",
		"ADD --checksum=" + first + " " + repo + "#main /r": "not " + first,
		"ADD " + site.url + "/missing.git#main /r":          "missing.git",
	} {
		if code, stderr := build(dockerfile); code != 5 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, want 5 and %q in:\n%s", dockerfile, code, want, stderr)
		}
	}
}
