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
	text := strings.TrimSpace(strings.Repeat("word ", 14000))
	script := strings.Repeat("echo line >/dev/null\n", 10000)
	file := strings.ReplaceAll(strings.Join([]string{
		"FROM REGISTRY/busybox:1",
		"ENV A=\"" + text + "\"",
		"RUN echo " + text + " | wc -c && echo $A | wc -c",
		"RUN : " + strings.Repeat(text, 4) + "; echo $0 $#",
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
	wantMatch(t, "the line of the failed step", stderr, `Dockerfile:20014: `)
	if code != 1 {
		t.Errorf("exit %d", code)
	}
}

// TestUnknownOwner: a user or group that the stage does not have gives root's files, as in BuildKit, and one warning
// with the line and the names that exist.
func TestUnknownOwner(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "docker-bake.hcl", `target "default" { output = ["type=cacheonly"] }`)
	c.write(t, "f", "f")
	c.write(t, "Dockerfile", strings.ReplaceAll("FROM REGISTRY/busybox:1\nCOPY --chown=appusr f /a\n"+
		"COPY --chown=app:nosuch f /b\nCOPY --chown=app:dev f /c\nCOPY --chown=7:8 f /d\n"+
		"RUN stat -c '%n %u:%g' /a /b /c /d\n", "REGISTRY", serveBases(t)))
	_, stderr := c.ok(t, "build", "--progress=plain")
	for _, want := range []string{
		`warning: Dockerfile:2: unknown user "appusr": /etc/passwd of the stage does not have it, ` +
			`so the files get root; it has root, app, 1234$`,
		`warning: Dockerfile:3: unknown group "nosuch": /etc/group of .* get the group of the user; it has root, app, `,
		`/a 0:0$`, `/b 1000:1000$`, `/c 1000:50$`, `/d 7:8$`,
	} {
		wantMatch(t, want, stderr, "(?m)"+want)
	}
	if n := strings.Count(stderr, "unknown "); n != 2 {
		t.Errorf("%d warnings, want 2:\n%s", n, stderr)
	}
}
