package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCacheOfAnotherUser takes a cache from root to an ordinary user, who changes one thing, and back.
func TestCacheOfAnotherUser(t *testing.T) {
	user := testUser(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		skip(t, "needs a static /bin/busybox")
	}
	files := map[string]string{
		"busybox": string(busybox), "a.txt": "a",
		"bake.hcl": `target "default" {
  output     = ["type=oci,dest=out.tar"]
  cache-from = ["type=local,src=carried"]
  cache-to   = ["type=local,dest=carried,mode=max"]
}`,
		"Dockerfile": `FROM scratch
COPY --chmod=4755 busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]
RUN b=/bin/busybox; $b mkdir -m 1777 /own; $b cp /proc/uptime /own/stamp; $b chown 7:8 /own/stamp; $b ln -s stamp /own/link; $b ln /own/stamp /own/hard
COPY --chown=5:6 a.txt /a.txt
RUN b=/bin/busybox; $b rm /a.txt; $b cat /own/link > /again; $b stat -c '%u %g %a' /own/stamp /own /bin/busybox > /seen
`,
	}
	var carried string
	machine := func(ordinary bool) *cli {
		c := newCLI(t)
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if carried != "" {
			if err := os.CopyFS(filepath.Join(c.dir, "carried"), os.DirFS(carried)); err != nil {
				t.Fatal(err)
			}
		}
		if carried = filepath.Join(c.dir, "carried"); ordinary {
			c.user = user
			giveTo(t, user, c.dir)
			giveTo(t, user, c.cache)
		}
		return c
	}
	build := func(c *cli, want string) string {
		t.Helper()
		_, said, code := c.run(t, "build", "--progress=plain")
		if code != 0 || !strings.Contains(said, want) || strings.Contains(said, "warning") {
			t.Errorf("exit code %d, and %q is not in:\n%s", code, want, said)
		}
		raw, err := os.ReadFile(filepath.Join(c.dir, "out.tar"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	first := build(machine(false), "4 ran, 0 cached")
	if again := build(machine(true), "up to date"); again != first {
		t.Error("the image of the ordinary user is another one")
	}
	files["a.txt"] = "changed"
	second := build(machine(true), "2 ran, 2 cached")
	if again := build(machine(false), "up to date"); again != second {
		t.Error("the image of root is another one")
	}
}
