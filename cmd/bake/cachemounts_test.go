package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// buildsFile builds the project of a cli with more arguments and returns the file r of the target default.
type buildsFile func(t *testing.T, args ...string) string

// bothBuilders returns bake and, if it is there, buildx on a daemon of its own, by name. Both read the project in the
// directory of c, and write type=local outputs.
func bothBuilders(t *testing.T, c *cli) map[string]buildsFile {
	t.Helper()
	needSandbox(t)
	k := startBuildKit(t)
	read := func(t *testing.T, dest string) string {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dest, "r"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(raw))
	}
	return map[string]buildsFile{
		"bake": func(t *testing.T, args ...string) string {
			t.Helper()
			dest := t.TempDir()
			c.ok(t, append([]string{"build", "--progress=plain", "--allow=fs=*",
				"--set=default.output=type=local,dest=" + dest}, args...)...)
			return read(t, dest)
		},
		"buildx": func(t *testing.T, args ...string) string {
			t.Helper()
			dest := t.TempDir()
			cmd := k.command(append([]string{"bake", "--builder", "peer", "--progress=plain", "--allow=fs=*",
				"--set=default.output=type=local,dest=" + dest}, args...)...)
			cmd.Dir = c.dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("buildx bake: %v\n%s", err, out)
			}
			return read(t, dest)
		},
	}
}

// renewedMounts has two stages that write to one cache mount, and one that only reads it.
const renewedMounts = `FROM REGISTRY/busybox:1 AS one
ARG N
RUN --mount=type=cache,id=m,target=/c echo one$N >>/c/log
FROM one AS two
ARG N
RUN --mount=type=cache,id=m,target=/c echo two$N >>/c/log; cp /c/log /r
FROM scratch
COPY --from=two /r /r
`

// TestCacheMountsOfNoCache: with --no-cache the first step that mounts an id gets an empty mount, and later steps see
// its files, as do later builds. --no-cache-filter does the same for the mounts of its stages.
func TestCacheMountsOfNoCache(t *testing.T) {
	c := newCLI(t)
	c.write(t, "Dockerfile", strings.ReplaceAll(renewedMounts, "REGISTRY", serveBases(t)))
	c.write(t, "docker-bake.hcl", `target "default" {}`)
	for name, build := range bothBuilders(t, c) {
		t.Run(name, func(t *testing.T) {
			for i, one := range []struct {
				args []string
				want string
			}{
				{[]string{"--set=default.args.N=1"}, "one1 two1"},
				{[]string{"--set=default.args.N=2"}, "one1 two1 one2 two2"},
				{[]string{"--set=default.args.N=2", "--no-cache"}, "one2 two2"},
				{[]string{"--set=default.args.N=3"}, "one2 two2 one3 two3"},
				{[]string{"--set=default.args.N=3", "--set=default.no-cache-filter=two"}, "two3"},
				{[]string{"--set=default.args.N=4", "--set=default.no-cache-filter=two"}, "one4 two4"},
			} {
				if got := strings.Join(strings.Fields(build(t, one.args...)), " "); got != one.want {
					t.Errorf("build %d, %q: got %q, want %q", i, one.args, got, one.want)
				}
			}
		})
	}
}

// TestCacheMountWithNewID: a step that fills a cache mount runs again if it gets another id, so that the next step
// finds the files. BuildKit takes the filling step from its cache, and the next step fails.
func TestCacheMountWithNewID(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	registry := serveBases(t)
	c.write(t, "docker-bake.hcl", `target "default" {}`)
	write := func(id, last string) {
		c.write(t, "Dockerfile", strings.NewReplacer("REGISTRY", registry, "ID", id, "LAST", last).Replace(
			"FROM REGISTRY/busybox:1\nRUN --mount=type=cache,target=/c,ID echo filled >/c/f\n"+
				"RUN --mount=type=cache,target=/c,ID test -f /c/f && echo LAST\n"))
	}
	for _, id := range []string{"id=v1", "id=v2", "sharing=shared", "id=v3"} {
		write(id, "build "+id)
		_, stderr := c.ok(t, "build", "--progress=plain")
		wantMatch(t, id, stderr, "(?m)^#.*build "+id+"$")
		_, stderr = c.ok(t, "build", "--progress=plain")
		wantMatch(t, id+" again", stderr, "(?m)^up to date")
	}
}
