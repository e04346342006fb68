package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// newGit returns a command line in an empty git repository.
func newGit(t *testing.T) *cli {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		skip(t, "needs git")
	}
	c := newCLI(t)
	c.env["GIT_CONFIG_GLOBAL"] = "/dev/null"
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"config", "user.email", "a@b"},
		{"config", "user.name", "a"}} {
		c.git(t, args...)
	}
	return c
}

// newRepo returns a command line in a git repository with a committed project of several targets.
func newRepo(t *testing.T) *cli {
	t.Helper()
	c := newGit(t)
	c.env["CI"] = ""
	for name, text := range map[string]string{
		"bake.hcl": `group "default" {
  targets = ["a", "b", "c", "lib", "inline"]
}
variable "note" {
  default = "one"
}
target "_common" {
  output = ["type=cacheonly"]
}
target "lib" {
  inherits   = ["_common"]
  dockerfile = "lib/Dockerfile"
}
target "a" {
  inherits   = ["_common"]
  context    = "a"
  contexts   = { lib = "target:lib" }
  args       = { NOTE = note }
}
target "b" {
  inherits   = ["_common"]
  dockerfile = "b/Dockerfile"
}
target "c" {
  inherits   = ["_common"]
  context    = "c"
}
target "inline" {
  inherits          = ["_common"]
  dockerfile-inline = "FROM scratch\nCOPY shared/two /two"
}
`,
		".dockerignore":  "**/*.md\n",
		"lib/Dockerfile": "FROM scratch\nCOPY lib/src /src\nCOPY shared/one /one\n",
		"lib/src/x":      "x", "shared/one": "1", "shared/two": "2", "shared/read.md": "m",
		"a/Dockerfile": "FROM scratch\nARG NOTE\nLABEL note=$NOTE\nCOPY --from=lib /src /src\nCOPY *.txt /\n",
		"a/a.txt":      "a", "a/other": "o",
		"b/Dockerfile": "FROM scratch\nCOPY --exclude=*.log b shared /all/\n", "b/b": "b", "b/b.log": "l",
		"c/Dockerfile": "FROM scratch AS unused\nCOPY unused /\nFROM scratch\nCOPY used /\n", "c/unused": "u",
		"c/used": "v",
	} {
		c.write(t, name, text)
	}
	c.commit(t)
	return c
}

// git runs git in the directory of c.
func (c *cli) git(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// commit commits all files of the directory of c.
func (c *cli) commit(t *testing.T) {
	t.Helper()
	c.git(t, "add", "-A")
	c.git(t, "commit", "-q", "--allow-empty", "-m", "x")
}

// TestAffected shows which targets a change of each kind of file affects, in the working tree and between commits, and
// the formats in which they are listed.
func TestAffected(t *testing.T) {
	needSandbox(t)
	c := newRepo(t)
	for _, one := range []struct{ file, text, want string }{
		{"a/a.txt", "A", "a"},
		{"a/other", "O", ""},
		{"lib/src/x", "X", "a lib"},
		{"shared/one", "11", "a b lib"}, // only a build knows whether lib comes out the same
		{"shared/two", "22", "b inline"},
		{"shared/read.md", "M", ""},
		{"b/b.log", "L", ""},
		{"b/new", "N", "b"},
		{"c/unused", "U", ""},
		{"c/Dockerfile", "FROM scratch\nCOPY used /\nUSER 1\n", "c"},
		{".dockerignore", "", "b"},
		{"untouched", "x", ""},
	} {
		c.write(t, one.file, one.text)
		for _, until := range []string{"", "HEAD"} {
			args := []string{"affected", "--since", "HEAD"}
			if until != "" {
				c.commit(t)
				args = []string{"affected", "--since", "HEAD~1", "--until", until}
			}
			out, _ := c.ok(t, args...)
			got := strings.Fields(out)
			slices.Sort(got)
			if strings.Join(got, " ") != one.want {
				t.Errorf("%s, until %q: got %v, want %s", one.file, until, got, one.want)
			}
		}
	}
	out, _ := c.ok(t, "affected", "--since", "HEAD~1", "--format=json")
	if out != "{\n  \"version\": 1,\n  \"targets\": [],\n  \"unknownBases\": []\n}\n" {
		t.Errorf("JSON: %s", out)
	}
	c.write(t, "c/used", "V")
	out, _ = c.ok(t, "affected", "--since", "HEAD", "--format=gha-matrix")
	if out != `{"target":["c"]}`+"\n" {
		t.Errorf("matrix: %s", out)
	}
	out, _ = c.ok(t, "affected", "--since", "HEAD", "--format=gitlab")
	wantMatch(t, "pipeline", out, `- TARGET: \["c"\]`)
	for code, args := range map[int][]string{6: {"--since", "HEAD", "--exit-code"}, 2: {"--since", "nothing"}} {
		if _, stderr, got := c.run(t, append([]string{"affected"}, args...)...); got != code {
			t.Errorf("%v: exit %d, want %d: %s", args, got, code, stderr)
		}
	}
}

// affects returns the targets, separated by spaces, that a change since a revision affects.
func (c *cli) affects(t *testing.T, since string, targets ...string) string {
	t.Helper()
	out, _ := c.ok(t, append([]string{"affected", "--since", since}, targets...)...)
	return strings.Join(strings.Fields(out), " ")
}

// TestAffectedByOutput shows that a target is affected when its output, attestations or use of the cache change, though
// all files stay the same.
func TestAffectedByOutput(t *testing.T) {
	needSandbox(t)
	c := newRepo(t)
	const target = "target \"x\" {\n  dockerfile-inline = \"FROM scratch\\nCOPY shared/two /two\"\n"
	c.write(t, "x.hcl", target+"}\n")
	c.commit(t)
	for _, line := range []string{`output = ["type=image,compression=zstd"]`, `attest = ["type=provenance,mode=max"]`,
		`no-cache = true`} {
		c.write(t, "x.hcl", target+"  "+line+"\n}\n")
		if got := c.affects(t, "HEAD", "-f", "x.hcl", "x"); got != "x" {
			t.Errorf("%s: got %q, want x", line, got)
		}
	}
}

// TestAffectedBySubmodule shows that a change of a submodule counts, also of files that are not tracked in it.
func TestAffectedBySubmodule(t *testing.T) {
	needSandbox(t)
	c := newRepo(t)
	for _, args := range [][]string{{"init", "-q", "-b", "main", "mod"}, {"-C", "mod", "config", "user.email", "a@b"},
		{"-C", "mod", "config", "user.name", "a"}} {
		c.git(t, args...)
	}
	commit := func() {
		c.git(t, "-C", "mod", "add", "-A")
		c.git(t, "-C", "mod", "commit", "-q", "-m", "x")
	}
	c.write(t, "mod/Dockerfile", "FROM scratch\n")
	c.write(t, "mod/sub/x", "x")
	c.write(t, "mod/.gitignore", "*.o\n")
	commit()
	c.write(t, "m.hcl", "target \"whole\" {\n  dockerfile-inline = \"FROM scratch\\nCOPY mod /\"\n}\n"+
		"target \"file\" {\n  dockerfile = \"mod/Dockerfile\"\n}\n"+
		"target \"sub\" {\n  context = \"mod/sub\"\n  dockerfile-inline = \"FROM scratch\\nCOPY . /\"\n}\n")
	c.write(t, ".gitmodules", "[submodule \"mod\"]\n\tpath = mod\n\turl = ./mod\n\tignore = all\n")
	c.git(t, "add", "-f", "mod")
	c.commit(t)
	check := func(what string, want ...string) {
		t.Helper()
		for _, target := range []string{"whole", "file", "sub"} {
			got := c.affects(t, "HEAD", "-f", "m.hcl", target) == target
			if got != slices.Contains(want, target) {
				t.Errorf("%s: %s is affected: %v", what, target, got)
			}
		}
	}
	check("nothing")
	for _, name := range []string{"mod/sub/new", "mod/sub/new.o"} {
		c.write(t, name, "")
		check(name, "whole", "sub")
		if err := os.Remove(filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	check("nothing again")
	c.write(t, "mod/sub/x", "y")
	c.write(t, "mod/Dockerfile", "FROM scratch\nUSER 1\n")
	check("changed files", "whole", "file", "sub")
	commit()
	check("another commit", "whole", "file", "sub")
}

// TestAffectedByHiddenChange shows that a change counts though git is configured to assume that the file is unchanged.
func TestAffectedByHiddenChange(t *testing.T) {
	needSandbox(t)
	c := newRepo(t)
	for _, flag := range []string{"assume-unchanged", "skip-worktree"} {
		c.git(t, "update-index", "--"+flag, "c/used")
		c.write(t, "c/used", flag)
		if got := c.affects(t, "HEAD"); got != "c" {
			t.Errorf("%s: got %q, want c", flag, got)
		}
		c.git(t, "update-index", "--no-"+flag, "c/used")
		c.git(t, "checkout", "-q", "c/used")
	}
}

// TestAffectedByLinks shows that contexts are compared by the files each revision has there. The contexts are links, or
// folders that become links and then folders again.
func TestAffectedByLinks(t *testing.T) {
	needSandbox(t)
	c := newRepo(t)
	for _, f := range []string{"one/sub/f", "two/sub/f", "three/sub/f", "four/a/b/f"} {
		c.write(t, f, f)
	}
	c.write(t, "l.hcl", "target \"x\" {\n"+
		"  context = \"ctx\"\n  dockerfile-inline = \"FROM scratch\\nCOPY sub/f /\"\n}\n"+
		"target \"y\" {\n  context = \"one/sub\"\n  dockerfile-inline = \"FROM scratch\\nCOPY f /\"\n}\n"+
		"target \"z\" {\n  context = \"four\"\n  dockerfile-inline = \"FROM scratch\\nCOPY . /\"\n}\n")
	link := func(to, name string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(filepath.Join(c.dir, name)),
			os.Symlink(to, filepath.Join(c.dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what, want string) {
		t.Helper()
		if got := c.affects(t, "HEAD", "-f", "l.hcl", "x", "y", "z"); got != want {
			t.Errorf("%s, not committed: got %q, want %q", what, got, want)
		}
		c.commit(t)
		for _, args := range [][]string{{"--since", "HEAD~1"}, {"--since", "HEAD~1", "--until", "HEAD"},
			{"--since", "HEAD", "--until", "HEAD~1"}} {
			out, _ := c.ok(t, append([]string{"affected", "-f", "l.hcl", "x", "y", "z"}, args...)...)
			if got := strings.Join(strings.Fields(out), " "); got != want {
				t.Errorf("%s, %v: got %q, want %q", what, args, got, want)
			}
		}
	}
	link("one", "ctx")
	c.commit(t)
	link("two", "ctx")
	check("a context leads elsewhere", "x")
	link("../three/sub", "one/sub")
	check("a context becomes a link", "y")
	link("two", "one")
	check("the folder of a context becomes a link", "y")
	if err := os.Remove(filepath.Join(c.dir, "one")); err != nil {
		t.Fatal(err)
	}
	c.write(t, "one/sub/f", "two/sub/f")
	check("the folder is one again, with the same files", "")
	if err := os.Rename(filepath.Join(c.dir, "four"), filepath.Join(c.dir, "moved")); err != nil {
		t.Fatal(err)
	}
	link("moved", "four")
	check("a context becomes a link to what it was", "")
	c.write(t, "moved/a/b/f", "changed")
	check("a file there changes", "z")
}

// TestAffectedByIncludedFiles shows that files included or extended by compose files count, whatever their names are.
func TestAffectedByIncludedFiles(t *testing.T) {
	needSandbox(t)
	c := newRepo(t)
	c.write(t, "compose.yaml", "include: [parts/more.json]\nservices:\n  ext:\n"+
		"    extends: {file: base.conf, service: b}\n    image: ext\n")
	const scratch = `{"build": {"dockerfile_inline": "FROM scratch"}}`
	text := map[string]string{
		"base.conf":        "services:\n  b:\n    extends: {file: parts/deep, service: d}\n",
		"parts/deep":       "services:\n  d:\n    build: {dockerfile_inline: 'FROM scratch'}\n",
		"parts/more.json":  `{"include": ["third"], "services": {"m": ` + scratch + `}}`,
		"parts/third":      "services:\n  n:\n    build: {dockerfile_inline: 'FROM scratch'}\n",
		"parts/irrelevant": "",
	}
	for name, t0 := range text {
		c.write(t, name, t0)
	}
	c.commit(t)
	for name, t0 := range text {
		c.write(t, name, t0+"\n\n")
		want := "ext m n"
		if name == "parts/irrelevant" {
			want = ""
		}
		if got := c.affects(t, "HEAD", "-f", "compose.yaml"); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		c.git(t, "checkout", "-q", name)
	}
}

// TestAffectedByUnknownBase shows that changed bases count though the store does not have them, as on a new CI machine.
func TestAffectedByUnknownBase(t *testing.T) {
	needSandbox(t)
	c := newRepo(t)
	pin := func(last string) {
		c.write(t, "bake.lock", "version = 1\n\nimage \"registry.example.com/one:1\" {\n  digest = \"sha256:"+
			strings.Repeat("0", 63)+last+"\"\n}\n")
	}
	file := func(ref string) {
		c.write(t, "y.hcl", "group \"default\" {\n  targets = [\"x\", \"y\"]\n}\ntarget \"x\" {\n"+
			"  dockerfile-inline = \"FROM registry.example.com/one:1\\nCOPY shared/two /\"\n}\n"+
			"target \"y\" {\n  dockerfile-inline = \"FROM "+ref+"\\nRUN true\"\n}\n")
	}
	pin("1")
	file("registry.example.com/two:1")
	c.commit(t)
	if got := c.affects(t, "HEAD", "-f", "y.hcl"); got != "" {
		t.Errorf("nothing changed: got %q", got)
	}
	pin("2")
	if got := c.affects(t, "HEAD", "-f", "y.hcl"); got != "x" {
		t.Errorf("another pin: got %q, want x", got)
	}
	pin("1")
	file("registry.example.com/two:2")
	if got := c.affects(t, "HEAD", "-f", "y.hcl"); got != "y" {
		t.Errorf("another tag: got %q, want y", got)
	}
	if err := os.Remove(filepath.Join(c.dir, "bake.lock")); err != nil {
		t.Fatal(err)
	}
	if got := c.affects(t, "HEAD", "-f", "y.hcl"); got != "x y" {
		t.Errorf("no lock: got %q, want x y", got)
	}
}
