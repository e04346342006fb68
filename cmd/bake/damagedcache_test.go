package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// damagedProject runs a step with a cache mount on a copied file.
const damagedProject = `target "default" {
  dockerfile-inline = <<EOF
FROM scratch
COPY --chmod=755 busybox /bin/busybox
RUN --mount=type=cache,target=/c ["/bin/busybox", "sh", "-c", "/bin/busybox cat /bin/busybox >/c/b; echo ran >/ran"]
FROM scratch
COPY --from=0 /ran /
EOF
  tags = ["example.test/x:1"]
}`

// newDamagedProject returns a cli that has built damagedProject, and the digest of the image.
func newDamagedProject(t *testing.T) (c *cli, want string) {
	t.Helper()
	needSandbox(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		skip(t, "needs a static /bin/busybox")
	}
	c = newCLI(t)
	c.write(t, "busybox", string(busybox))
	c.write(t, "bake.hcl", damagedProject)
	c.ok(t, "build", "--progress=none")
	out, _ := c.ok(t, "image", "ls", "--json")
	return c, out[strings.Index(out, "sha256:"):][:len("sha256:")+64]
}

// damageOf are ways to damage a file of the cache.
var damageOf = map[string]func(path string) error{
	"empty":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
	"truncated": func(path string) error { return os.Truncate(path, 11) },
	"garbage":   func(path string) error { return os.WriteFile(path, []byte("\x00no\nfile\x7f"), 0o600) },
	"other":     func(path string) error { return os.WriteFile(path, []byte(`{"schemaVersion":3}`), 0o600) },
	"types": func(path string) error {
		return os.WriteFile(path, []byte(`{"schemaVersion":2,"manifests":"a"}`), 0o600)
	},
	"directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	"huge":      func(path string) error { return os.Truncate(path, 1<<30) },
	"denied":    func(path string) error { return os.Chmod(path, 0) },
}

// TestDamagedImageList shows that no command that reads the list of images fails when it is damaged, and that the first
// one restores it and says so.
func TestDamagedImageList(t *testing.T) {
	c, want := newDamagedProject(t)
	list := filepath.Join(c.cache, "oci", "index.json")
	c.ok(t, "image", "tag", "example.test/x:1", "example.test/y:1")
	for how, damage := range damageOf {
		for _, args := range []string{
			"image ls", "image history example.test/x:1", "image inspect example.test/x:1", "cache du",
			"image tag example.test/x:1 example.test/z:1", "image rm example.test/z:1", "cache prune --keep-size=1TB",
			"cache check --repair", "build --progress=none", "plan", "builds ls",
		} {
			if err := damage(list); err != nil {
				t.Fatal(err)
			}
			_, stderr := c.ok(t, strings.Fields(args)...)
			ls, after := c.ok(t, "image", "ls", "--json")
			said := strings.Count(stderr+after, "the list of images is damaged")
			if said != 1 && !(how == "denied" && said == 0) { // root may read it
				t.Errorf("%s, %s: said %d times:\n%s%s", how, args, said, stderr, after)
			}
			if strings.Count(ls, want) < 2 {
				t.Errorf("%s, %s: the names are lost:\n%s", how, args, ls)
			}
		}
	}
	if err := damageOf["garbage"](list); err != nil {
		t.Fatal(err)
	}
	if stdout, _, code := c.run(t, "cache", "check"); code != exitDifference || !strings.Contains(stdout, list+": ") {
		t.Errorf("check exits with %d:\n%s", code, stdout)
	}
}

// TestBuildWithDamagedCache damages all files of one kind in a cache that a build has written. The next build, which
// nothing stops, makes the same image.
func TestBuildWithDamagedCache(t *testing.T) {
	c, want := newDamagedProject(t)
	whole := c.cache
	for _, pattern := range []string{
		"*", "oci/*", "oci/blobs/sha256/*", "entries/*", "entries/*/*", "candidates/*/*/*", "layers/*", "layers/*/*",
		"packed/*/*", "packed/*/*/*", "mounts/*/*", "logs/*", "builds/*", "past/*", "lists/*", "statindex/*",
		"targets/*", "pins/*", "points/*", "points/*/*", "unsynced/*", "unsynced/*/*", "locks/*", "tmp/*",
	} {
		for how, damage := range map[string]func(string) error{
			"a file": func(path string) error {
				return errors.Join(os.RemoveAll(path), os.WriteFile(path, []byte(`{"garbage`), 0o600))
			},
			"a directory": func(path string) error {
				return errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "in", "it"), 0o700))
			},
		} {
			c.cache = t.TempDir()
			if err := os.CopyFS(c.cache, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			paths, err := filepath.Glob(filepath.Join(c.cache, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range paths {
				if err := damage(path); err != nil {
					t.Fatal(err)
				}
			}
			_, stderr, code := c.run(t, "build", "--progress=plain")
			if code != 0 || !strings.Contains(stderr, want) {
				t.Errorf("%d of %s, %s: exit %d:\n%s", len(paths), pattern, how, code, stderr)
			}
			c.run(t, "cache", "check", "--repair")
			if stdout, stderr, code := c.run(t, "cache", "check"); code != 0 {
				t.Errorf("%s, %s: after the repair, check exits with %d:\n%s%s", pattern, how, code, stdout, stderr)
			}
			if err := os.RemoveAll(c.cache); err != nil {
				t.Fatal(err)
			}
		}
	}
}
