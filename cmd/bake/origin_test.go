package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNamesOfOtherProjects shows whose images serve as bases: those with plain names for all projects, those with the
// name of a registry for their own project and, with a note, for others, and those of a remote definition
// for no other project.
func TestNamesOfOtherProjects(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	cache := t.TempDir()
	names := []string{"plain:1", "docker.io/team/x:1", "registry.example.com/x:1", "localhost:1/x:1"}
	from := func(name string) string {
		return fmt.Sprintf("target \"default\" {\n  output = [\"type=cacheonly\"]\n"+
			"  dockerfile-inline = \"FROM %s\\n\"\n}\n",
			name)
	}
	tag := "target \"tag\" {\n  tags = [\"" + strings.Join(names, "\", \"") + "\"]\n" +
		"  dockerfile-inline = \"FROM scratch\\nLABEL by=VALUE\\n\"\n}\n"
	owner, other := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(owner, "bake.hcl"), tag)
	if code, _, stderr := runIn(t, owner, cache, "build", "--progress=none", "tag"); code != 0 {
		t.Fatal(code, stderr)
	}
	check := func(dir, name string, code int, want string) {
		t.Helper()
		writeFile(t, filepath.Join(dir, "bake.hcl"), tag+from(name))
		for _, again := range []string{"", " again"} {
			got, _, stderr := runIn(t, dir, cache, "build", "--progress=none", "--offline")
			if got != code || want == "" && strings.Contains(stderr, "note: base") || !strings.Contains(stderr, want) {
				t.Errorf("%s%s: exit %d, want %d and %q\n%s", name, again, got, code, want, stderr)
			}
			if strings.Count(stderr, "note: base") > 1 {
				t.Errorf("%s: several notes\n%s", name, stderr)
			}
		}
	}
	for _, name := range names {
		check(owner, name, 0, "")
		want := ""
		if name != "plain:1" {
			want = "is the image that the project in " + owner + " built here"
		}
		check(other, name, 0, want)
	}

	site.files["bake.hcl"] = []byte(strings.ReplaceAll(tag, "VALUE", "remote") + from("registry.example.com/x:1"))
	remote := site.url + "/files/bake.hcl"
	for _, target := range []string{"tag", "default"} { // the second stands on what the first named
		if code, _, stderr := runIn(t, other, cache, "build", "--progress=none", remote, target); code != 0 ||
			strings.Contains(stderr, "note: base") {
			t.Fatal(target, code, stderr)
		}
	}
	for _, name := range names {
		for _, dir := range []string{owner, other} {
			check(dir, name, 5, "was built here by the remote definition "+remote)
		}
	}
	if code, _, stderr := runIn(t, other, cache, "image", "tag", "plain:1", "mine:1",
		"registry.example.com/y:1"); code != 0 {
		t.Fatal(code, stderr)
	}
	check(other, "mine:1", 0, "")
	check(other, "registry.example.com/y:1", 0, "bake image load or tag named here")
}

// TestNamesOfOtherProjectsFrozen shows that a frozen build uses no image that another project named, although a digest
// pins another base.
func TestNamesOfOtherProjectsFrozen(t *testing.T) {
	needSandbox(t)
	owner, other, cache := t.TempDir(), t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(owner, "bake.hcl"),
		"target \"default\" {\n  tags = [\"registry.example.com/x:1\"]\n"+
			"  dockerfile-inline = \"FROM scratch\\nLABEL a=b\\n\"\n}\n")
	if code, _, stderr := runIn(t, owner, cache, "build", "--progress=none"); code != 0 {
		t.Fatal(code, stderr)
	}
	writeFile(t, filepath.Join(other, "bake.hcl"),
		"target \"default\" {\n  output = [\"type=cacheonly\"]\n"+
			"  dockerfile-inline = \"FROM registry.example.com/x:1\\n\"\n}\n")
	writeFile(t, filepath.Join(other, "bake.lock"), "version = 1\n")
	for _, mode := range []string{"frozen", "locked"} {
		code, _, stderr := runIn(t, other, cache, "build", "--progress=none", "--lock="+mode)
		if code != 3 {
			t.Errorf("%s: exit %d\n%s", mode, code, stderr)
		}
	}
	if err := os.Remove(filepath.Join(other, "bake.lock")); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := runIn(t, other, cache, "build", "--progress=none"); code != 0 || !strings.Contains(stderr,
		owner) {
		t.Errorf("without a lock: exit %d\n%s", code, stderr)
	}
}
