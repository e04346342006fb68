package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// limited runs bake in c after ulimit commands of the shell, and returns its output.
func (c *cli) limited(t *testing.T, ulimit string, args ...string) (string, error) {
	t.Helper()
	exe := bakeCommand(t).Path
	cmd := exec.Command("sh", append([]string{"-c", ulimit + ` && exec "$@"`, "sh", exe}, args...)...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+c.cache)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestFewOpenFiles builds 300 targets, each with its own context and outputs, where at most 256 files may be open: in
// an empty cache, and from a full one.
func TestFewOpenFiles(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	const targets = 300 // an even number, so that the last is odd
	for n := range targets {
		c.write(t, fmt.Sprintf("s%d/f", n), fmt.Sprint(n))
	}
	c.write(t, "bake.hcl", `target "default" {
  name = "t${n}"
  matrix = { n = range(300) }
  context = "s${n}"
  dockerfile-inline = "FROM scratch\nCOPY f /f"
  tags = ["example.test/t${n}:1"]
  output = ["type=image", n % 2 == 0 ? "type=oci,dest=out/${n}.tar" : "type=local,dest=out/${n}"]
}`)
	for range 2 {
		if out, err := c.limited(t, "ulimit -n 256", "build", "--progress=none"); err != nil {
			t.Fatalf("%v\n%.3000s", err, out)
		}
		for _, n := range []int{1, targets - 1} {
			raw, err := os.ReadFile(filepath.Join(c.dir, "out", fmt.Sprint(n), "f"))
			if err != nil || string(raw) != fmt.Sprint(n) {
				t.Errorf("target %d wrote %q, %v", n, raw, err)
			}
		}
		left, err := filepath.Glob(filepath.Join(c.dir, "out", "*", ".*"))
		if tars, _ := filepath.Glob(filepath.Join(c.dir, "out", "*.tar")); err != nil || len(tars) != targets/2 ||
			len(left) > 0 {
			t.Errorf("%d tars, left over: %q, %v", len(tars), left, err)
		}
		if err := os.RemoveAll(filepath.Join(c.dir, "out")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenFilesOfPrograms shows that git gets the user's soft limit of open files, which bake raises for itself, and
// steps the same one on every machine.
func TestOpenFilesOfPrograms(t *testing.T) {
	needSandbox(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		skip(t, "needs a static /bin/busybox")
	}
	c := newCLI(t)
	c.write(t, "busybox", string(busybox))
	c.write(t, "bake.hcl", `target "default" {
  dockerfile-inline = <<EOF
FROM scratch
COPY --chmod=755 busybox /bin/sh
RUN echo "step $(ulimit -Sn) of $(ulimit -Hn)"
EOF
}
target "git" { dockerfile-inline = "FROM scratch\nADD https://example.test/x.git#main /" }
`)
	git := filepath.Join(c.dir, "git")
	writeFile(t, git, "#!/bin/sh\necho \"git $(ulimit -Sn)\" >>'"+c.dir+"/said'\nexit 1\n")
	if err := os.Chmod(git, 0o755); err != nil {
		t.Fatal(err)
	}
	limits := `ulimit -Sn 300; ulimit -Hn 1500; PATH="` + c.dir + `:$PATH"`
	out, err := c.limited(t, limits, "build", "--progress=plain")
	if err != nil {
		t.Error(err)
	}
	if out, err := c.limited(t, limits, "build", "git"); err == nil {
		t.Errorf("a git that does nothing fetched a repository:\n%s", out)
	}
	said, err := os.ReadFile(filepath.Join(c.dir, "said"))
	if err != nil || !strings.Contains(out, "step 1024 of 1500") || !strings.HasPrefix(string(said), "git 300\n") {
		t.Errorf("git says %q, %v:\n%s", said, err, out)
	}
}
