package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestKilledBuild shows that the builds of eight processes are listed as running, and as interrupted after they were
// killed. Their output until then is kept.
func TestKilledBuild(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.env["BUILDX_BAKE_ENTITLEMENTS_FS"] = "0"
	c.write(t, "bake.hcl", "target \"default\" {\n  contexts = { host = \"/bin\" }\n  args = { N = \"0\" }\n}\n")
	c.write(t, "Dockerfile", `FROM scratch
COPY --from=host busybox /bin/
RUN ["/bin/busybox", "echo", "first"]
ARG N
RUN ["/bin/busybox", "sh", "-c", "echo said by $N; exec /bin/busybox sleep 1000"]
`)
	var running []*exec.Cmd
	for _, n := range strings.Split("12345678", "") {
		running = append(running,
			waitingBuild(t, c, "said by "+n, "build", "--progress=plain", "--set", "default.args.N="+n))
	}
	if out, _ := c.ok(t, "builds", "ls"); strings.Count(out, " running ") != len(running) {
		t.Errorf("while they run:\n%s", out)
	}
	for _, cmd := range running {
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	out, _ := c.ok(t, "builds", "ls")
	if strings.Count(out, " interrupted ") != len(running) || strings.Contains(out, "running") {
		t.Errorf("after they were killed:\n%s", out)
	}
	ids, _ := c.ok(t, "builds", "ls", "-q")
	said := map[string]bool{}
	for id := range strings.FieldsSeq(ids) {
		logs, _ := c.ok(t, "builds", "logs", id, "said by")
		said[logs] = true
		show, _ := c.ok(t, "builds", "show", id)
		wantMatch(t, "show", show, `^build \S+ interrupted, (?s:.*)\nstarted  .*said by \d`)
	}
	for _, n := range strings.Split("12345678", "") {
		if !said["said by "+n+"\n"] {
			t.Errorf("no log says %s: %v", n, said)
		}
	}
	c.write(t, "Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	c.ok(t, "build", "--progress=none")
	if out, _ := c.ok(t, "builds", "ls", "--json"); strings.Count(out, `"interrupted"`) != len(running) ||
		strings.Count(out, `"built"`) != 1 {
		t.Errorf("later:\n%s", out)
	}
}
