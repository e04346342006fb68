package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/bakebuild/bake/planner"
)

// TestNamesAreInert shows that control characters and markup in the name of a folder are escaped in all output.
func TestNamesAreInert(t *testing.T) {
	const name = "a|b\x1b[31m\n<i>\"`c"
	c := newCLI(t)
	c.write(t, name+"/Dockerfile", "FROM scratch AS x\nCOPY . /\nFROM scratch\nCOPY --from=x / /y\n")
	c.write(t, "bake.hcl", "target \"default\" {\n  context = \"a|b\\u001b[31m\\n<i>\\\"`c\"\n}\n")
	for _, args := range [][]string{{"plan"}, {"plan", "--all"}, {"explain"}, {"graph", "--format=dot"},
		{"graph", "--format=mermaid"}} {
		out, _ := c.ok(t, args...)
		if strings.ContainsFunc(out, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }) ||
			strings.Contains(out, "31m\n") {
			t.Errorf("%v prints %q", args, out)
		}
	}
	c.write(t, name+"/Dockerfile", "FROM scratch\nCOPY missing /\n")
	_, stderr, code := c.run(t, "build", "--progress=none")
	if code != exitStep || strings.Contains(stderr, "\x1b") {
		t.Errorf("exit %d: %q", code, stderr)
	}
}

// TestDriftPlacesAreInert shows the same for the places of bases, in the text table and in Markdown.
func TestDriftPlacesAreInert(t *testing.T) {
	use := planner.DriftUse{Ref: "docker.io/library/a:1", Digest: "sha256:0", Pinned: "lock", Targets: []string{"t"},
		Places: []string{"a|b\x1b\n<i>/Dockerfile:1"}}
	v := outdatedView{Drift: []planner.Drift{{Repository: "docker.io/library/a", Uses: []planner.DriftUse{use}}},
		now: time.Unix(0, 0)}
	for format, lines := range map[string]int{"text": 3, "markdown": 8} {
		var out bytes.Buffer
		if err := v.print(&out, format); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); strings.Contains(got, "a|b") || strings.Contains(got, "\x1b") ||
			strings.Contains(got, "<i>") || strings.Count(got, "\n") != lines {
			t.Errorf("%s: %q", format, got)
		}
	}
}
