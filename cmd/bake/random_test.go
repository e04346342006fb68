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

// TestRandomDockerfiles: random Dockerfiles make what BuildKit makes of them. BAKE_SEED repeats a run from the seed that it
// printed, BAKE_RANDOM_CASES says how many (200).
func TestRandomDockerfiles(t *testing.T) {
	needSandbox(t)
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
	failed, links, implied := 0, 0, 0
	for _, one := range all {
		if theirs[one.Name] == executortest.Fails {
			failed++
		}
		t1, t2 := theirs[one.Name], ours[one.Name]
		switch {
		case t1 == t2:
			continue
		case withoutLinks(t1) == withoutLinks(t2):
			links++
			t.Logf("%s: only hard links differ", one.Name)
			continue
		case t1 == withoutImplied(t2, t1):
			implied++
			t.Logf("%s: only directories that no layer of BuildKit's lists differ", one.Name)
			continue
		}
		if d := cmp.Diff(strings.Split(t1, "\n"), strings.Split(t2, "\n")); d != "" {
			t.Errorf("%s: BuildKit -, ours +\n%s\n%s\n%s\n%s", one.Name, d, one.Setup, one.Files["Dockerfile"],
				linesWith(stderr, one.Name))
		}
	}
	// BuildKit loses a hard link to a file that a lower layer has just so (executor/README.md). That is rare.
	if links > 1+count/50 {
		t.Errorf("hard links differ in %d of %d", links, count)
	}
	if implied > 1+count/50 { // rare too, and there
		t.Errorf("directories that are implied differ in %d of %d", implied, count)
	}
	if failed > count*3/4 { // a third does, and of few cases that varies
		t.Errorf("%d of %d random Dockerfiles fail: they say little", failed, count)
	}
	t.Logf("%d of %d fail, as they do in BuildKit", failed, count)
}

// linkMark is what an image's text says of a name that is a hard link to another one.
var linkMark = regexp.MustCompile(`(?m) = /.*$`)

func withoutLinks(text string) string { return linkMark.ReplaceAllString(text, "") }

// plainDir is what an image's text says of a directory as it is where no layer lists it.
var plainDir = regexp.MustCompile(`^d0755 0:0 - (/\S+)$`)

// withoutImplied leaves the directories out of a text that another one has only by files in them.
func withoutImplied(text, other string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		m := plainDir.FindStringSubmatch(line)
		return m != nil && strings.Contains(other, " "+m[1]+"/") && !strings.Contains(other, " "+m[1]+"\n")
	}), "\n")
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
