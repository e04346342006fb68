package main

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/executor/executortest"
)

// randomCases returns random Dockerfiles: as many as BAKE_RANDOM_CASES says (200), from the seed BAKE_SEED. Without a
// seed it prints the one it uses.
func randomCases(t *testing.T) []executortest.Case {
	t.Helper()
	seed := uint64(time.Now().UnixMilli())
	count := 200
	if s := os.Getenv("BAKE_SEED"); s != "" {
		seed = number(t, s)
	}
	if s := os.Getenv("BAKE_RANDOM_CASES"); s != "" {
		count = int(number(t, s))
	}
	t.Logf("BAKE_SEED=%d", seed)
	all := make([]executortest.Case, count)
	for i := range all {
		all[i] = executortest.Random(seed + uint64(i))
	}
	return all
}

// TestRandomDockerfiles shows that random Dockerfiles give the images that BuildKit builds from them.
func TestRandomDockerfiles(t *testing.T) {
	needSandbox(t)
	all := randomCases(t)
	count := len(all)
	address := serveBases(t)
	peer := startBuildKit(t)
	c := newCLI(t)
	stderr := buildCases(t, c, address, all)
	ours := builtResults(t, c.dir, all)
	dir := t.TempDir()
	if err := executortest.WriteProject(dir, address, all); err != nil {
		t.Fatal(err)
	}
	peer.bakeCases(t, dir, all)
	theirs := builtResults(t, dir, all)
	failed, links, implied, behind := 0, 0, 0, 0
	for _, one := range all {
		if theirs[one.Name] == executortest.Fails {
			failed++
		}
		want, got := theirs[one.Name], ours[one.Name]
		switch {
		case want == got:
			continue
		case want == executortest.Fails && strings.Contains(string(one.Files["Dockerfile"]), "ln -s"):
			behind++
			t.Logf("%s: only BuildKit fails, to copy a directory onto a link", one.Name)
			continue
		case withoutLinks(want) == withoutLinks(got):
			links++
			t.Logf("%s: only hard links differ", one.Name)
			continue
		case onlyLinkedDirs(one, want, got):
			t.Logf("%s: only BuildKit changes the directories that COPY --link finds", one.Name)
			continue
		case want == withoutImplied(got, want):
			implied++
			t.Logf("%s: only directories that no layer of BuildKit's lists differ", one.Name)
			continue
		}
		if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); d != "" {
			t.Errorf("%s: BuildKit -, ours +\n%s\n%s\n%s\n%s", one.Name, d, one.Setup, one.Files["Dockerfile"],
				linesWith(stderr, one.Name))
		}
	}
	// BuildKit loses a hard link to a file of a lower layer (executor/README.md). That is rare.
	if links > 1+count/50 {
		t.Errorf("hard links differ in %d of %d", links, count)
	}
	if implied > 1+count/50 { // rare as well
		t.Errorf("directories that are implied differ in %d of %d", implied, count)
	}
	if behind > 1+count/20 { // rare as well
		t.Errorf("only BuildKit fails in %d of %d", behind, count)
	}
	if failed > count*3/4 { // about a third does, with variance in few cases
		t.Errorf("%d of %d random Dockerfiles fail: the test shows little", failed, count)
	}
	t.Logf("%d of %d fail, as they do in BuildKit", failed, count)
}

// linkMark matches the mark of a hard link in the text of an image.
var linkMark = regexp.MustCompile(`(?m) = /.*$`)

// withoutLinks removes the marks of hard links from the text of an image.
func withoutLinks(text string) string { return linkMark.ReplaceAllString(text, "") }

// dirMode matches the mode, owner and attributes of a directory in the text of an image.
var dirMode = regexp.MustCompile(`(?m)^d\d+ \d+:\d+ .*? (/\S*)`)

// onlyLinkedDirs reports whether only the directories differ that a COPY --link may have found.
func onlyLinkedDirs(c executortest.Case, want, got string) bool {
	return strings.Contains(string(c.Files["Dockerfile"]), "--link") && withoutDirModes(want) == withoutDirModes(got)
}

// withoutDirModes removes the modes and owners of directories from the text of an image. COPY --link of BuildKit sets
// those of directories that exist (executor/README.md).
func withoutDirModes(text string) string { return dirMode.ReplaceAllString(text, "d $1") }

// plainDir matches, in the text of an image, a directory with the metadata it has if no layer lists it.
var plainDir = regexp.MustCompile(`^d0755 0:0 - (/\S+)$`)

// withoutImplied removes directories from a text that another text has only as parents of files.
func withoutImplied(text, other string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		m := plainDir.FindStringSubmatch(line)
		return m != nil && strings.Contains(other, " "+m[1]+"/") && !strings.Contains(other, " "+m[1]+"\n")
	}), "\n")
}

// number parses a decimal number.
func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
