package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sharedProject exports its cache to a directory and imports it from there.
const sharedProject = `target "default" {
  output     = ["type=oci,dest=out.tar"]
  cache-from = ["type=local,src=exported"]
  cache-to   = ["type=local,dest=exported,mode=max"]
}`

// sharedDockerfile writes files with owners, special modes and links, and depends on a.txt half-way.
const sharedDockerfile = `FROM scratch
COPY --chmod=4755 busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]
RUN b=/bin/busybox; $b mkdir -m 1777 /own; $b cp /proc/uptime /own/stamp; $b chown 7:8 /own/stamp; ` +
	`$b ln -s stamp /own/link; $b ln /own/stamp /own/hard
COPY --chown=5:6 a.txt /a.txt
RUN b=/bin/busybox; $b rm /a.txt; $b cat /own/link > /again; $b stat -c '%u %g %a' /own/stamp /own /bin/busybox > /seen
`

// TestCacheOfAnotherUser shows that an unprivileged user can import the cache that root exported, and the reverse:
// steps do not run again, and images have the same bytes.
func TestCacheOfAnotherUser(t *testing.T) {
	user := testUser(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		skip(t, "needs a static /bin/busybox")
	}
	files := map[string]string{
		"busybox": string(busybox), "a.txt": "a", "bake.hcl": sharedProject, "Dockerfile": sharedDockerfile,
	}
	var exported string // by the build before
	machine := func(ordinary bool) *cli {
		c := newCLI(t)
		for name, text := range files {
			c.write(t, name, text)
		}
		if exported != "" {
			if err := os.CopyFS(filepath.Join(c.dir, "exported"), os.DirFS(exported)); err != nil {
				t.Fatal(err)
			}
		}
		if exported = filepath.Join(c.dir, "exported"); ordinary {
			c.user = user
			giveTo(t, user, c.dir)
			giveTo(t, user, c.cache)
		}
		return c
	}
	build := func(c *cli, want string) string {
		t.Helper()
		_, stderr, code := c.run(t, "build", "--progress=plain")
		if code != 0 || !strings.Contains(stderr, want) || strings.Contains(stderr, "warning") {
			t.Errorf("exit code %d, and %q is not in:\n%s", code, want, stderr)
		}
		raw, err := os.ReadFile(filepath.Join(c.dir, "out.tar"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	first := build(machine(false), "4 ran, 0 cached")
	if again := build(machine(true), "up to date"); again != first {
		t.Error("the image of the unprivileged user differs")
	}
	files["a.txt"] = "changed"
	second := build(machine(true), "2 ran, 2 cached")
	if again := build(machine(false), "up to date"); again != second {
		t.Error("the image of root differs")
	}
}

// TestCacheOfOtherCapabilities shows that root and root in its own user namespace, whose layers differ in format, do
// not read each other's cache: a directory that a layer replaced would show the files below it.
func TestCacheOfOtherCapabilities(t *testing.T) {
	needSandbox(t)
	build := func(c *cli, less bool) (string, error) {
		program := bakeCommand(t).Path + " image build --progress=plain -t x ."
		cmd := exec.Command("sh", "-c", program)
		if less {
			cmd = exec.Command("setpriv", "--bounding-set=-sys_admin,-net_admin", "sh", "-c", program)
		}
		cmd.Dir, cmd.Env = c.dir, append(os.Environ(), "BAKE_CACHE_DIR="+c.cache)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, first := range []bool{true, false} {
		c := newCLI(t)
		c.write(t, "busybox", string(fileOrSkip(t, "/bin/busybox")))
		c.write(t, "Dockerfile", "FROM scratch\nCOPY --chmod=755 busybox /\nRUN [\"/busybox\", \"mkdir\", \"/d\"]\n")
		if out, err := build(c, first); err != nil {
			t.Fatal(out)
		}
		if out, err := build(c, first); err != nil || !strings.Contains(out, "up to date") {
			t.Errorf("again: %s", out)
		}
		if out, err := build(c, !first); err == nil || !strings.Contains(out, "use another BAKE_CACHE_DIR") {
			t.Errorf("with other capabilities (first with less: %t): %s", first, out)
		}
		c.cache = t.TempDir()
		if out, err := build(c, !first); err != nil {
			t.Errorf("in another cache: %s", out)
		}
	}
}
