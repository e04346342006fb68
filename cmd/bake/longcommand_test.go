package main

import (
	"path/filepath"
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

// TestLongHeredocs: here-documents with lines of 70 KB and more have exactly the content of the file, expanded and not,
// in a file with LF and with CRLF, and the image's history has no traces of how they are read.
func TestLongHeredocs(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	x, text := strings.Repeat("x", 70000), strings.Repeat("word ", 50000)
	base := serveBases(t)
	c.write(t, "docker-bake.hcl", `target "default" { output = ["type=local,dest=out", "type=oci,dest=i.tar"] }`)
	for _, end := range []string{"\n", "\r\n"} {
		file := strings.Join([]string{
			"FROM " + base + "/busybox:1", "# " + text, "ENV V=value",
			"COPY <<E /expanded", "$V-" + x + "$V." + x + "${N:-none}", text, "E",
			"COPY <<'E' /raw", "$V-" + x + "$V." + x + "${N:-none}", "E",
			"ADD <<-E /dir/tabs", "\t\ta" + x + "\tb", "\tE",
			"RUN <<E", "echo " + x + " $V >/ran; echo '" + text + "' | wc -c >/size", "E",
			"RUN <<E sh", "echo " + x + " >/shell", "E",
			"RUN cat <<E >/cat", x + "$V", "E", "",
		}, end)
		c.write(t, "Dockerfile", file)
		c.ok(t, "build", "--progress=plain")
		for name, want := range map[string]string{
			"expanded": "value-" + x + "value." + x + "none\n" + text + "\n",
			"raw":      "$V-" + x + "$V." + x + "${N:-none}\n",
			"dir/tabs": "a" + x + "\tb\n",
			"ran":      x + " value\n",
			"size":     "250001\n",
			"shell":    x + "\n",
			"cat":      x + "value\n",
		} {
			if got := c.read(t, filepath.Join("out", name)); got != want {
				t.Errorf("%q: %s has %d bytes, want %d", end, name, len(got), len(want))
			}
		}
		if strings.Contains(c.read(t, "i.tar"), "joint-") {
			t.Errorf("%q: the image has a trace of a joint", end)
		}
	}
	c.write(t, "Dockerfile", "FROM "+base+"/busybox:1\nRUN <<E\n"+x+"\nE\nRUN false\nMAINTAINER me\n")
	_, stderr, _ := c.run(t, "build", "--progress=plain")
	wantMatch(t, "the line of a warning", stderr, `Dockerfile:6: MaintainerDeprecated`)
	wantMatch(t, "the line of the failed step", stderr, `error: .*Dockerfile:2: `)
	stdout, _, _ := c.run(t, "build", "--check")
	wantMatch(t, "the line of a finding", stdout, `(?m)^Dockerfile:6$`)
}
