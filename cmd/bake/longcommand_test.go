package main

import (
	"strings"
	"testing"
)

// TestLongCommands: a line of 70 KB, one of 300 KB and here-documents of 200 KB are built, as root and as a user of the
// image, and errors name the lines of the file.
func TestLongCommands(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	words := strings.TrimSpace(strings.Repeat("word ", 14000))
	script := strings.Repeat("echo line >/dev/null\n", 10000)
	file := strings.ReplaceAll(strings.Join([]string{
		"FROM REGISTRY/busybox:1",
		"ENV A=\"" + words + "\"",
		"RUN echo " + words + " | wc -c && echo $A | wc -c",
		"RUN : " + strings.Repeat(words, 4) + "; echo $0 $#",
		"RUN <<E", strings.TrimSuffix(script, "\n"), "echo document; exit 0", "false", "E",
		"USER 1000",
		"SHELL [\"/bin/sh\", \"-ec\"]",
		"RUN <<E", strings.TrimSuffix(script, "\n"), "echo user $(id -u)", "E",
		"RUN echo last && LASTCOMMAND",
	}, "\n")+"\n", "REGISTRY", serveBases(t))
	c.write(t, "docker-bake.hcl", `target "default" { output = ["type=cacheonly"] }`)
	c.write(t, "Dockerfile", strings.Replace(file, "LASTCOMMAND", "true", 1))
	_, stderr := c.ok(t, "build", "--progress=plain")
	for _, want := range []string{"70000\n.* 70000", "/bin/sh 0", "document", "user 1000", "last"} {
		wantMatch(t, want, stderr, "(?m)^#[0-9]+ [0-9.]+ "+want+"$")
	}
	c.write(t, "Dockerfile", strings.Replace(file, "LASTCOMMAND", "exit 3", 1))
	_, stderr, code := c.run(t, "build", "--progress=plain")
	wantMatch(t, "the line of the failed step", stderr, `Dockerfile:20017: `)
	if code != 1 {
		t.Errorf("exit %d", code)
	}
}
