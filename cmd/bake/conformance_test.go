package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/executortest"
)

// serveBases serves the bases of the cases on loopback and returns HOST:PORT.
func serveBases(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		skip(t, "needs a static busybox (busybox-static)")
	}
	bases, err := executortest.Bases(program)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	for name, image := range bases {
		if err := crane.Push(image, address+"/"+name+":1", crane.Insecure); err != nil {
			t.Fatal(err)
		}
	}
	return address
}

// builtResults returns the results of the cases in a built project, by name of the case.
func builtResults(t *testing.T, dir string, all []executortest.Case) map[string]string {
	t.Helper()
	results := map[string]string{}
	images := executortest.Images{}
	for _, c := range all {
		layout := filepath.Join(dir, "out", c.Name+".tar")
		if _, err := os.Stat(layout); err != nil {
			results[c.Name] = executortest.Fails
			continue
		}
		text, err := images.Read(layout)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		results[c.Name] = text
	}
	return results
}

// compare fails for each case whose result is not the expected one. own selects the cases that only bake builds so.
func compare(t *testing.T, all []executortest.Case, results map[string]string, own func(executortest.Case) bool) {
	t.Helper()
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			want := c.Want
			if c.Reason != "" && own(c) {
				want = c.Own
			}
			if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(results[c.Name], "\n")); d != "" {
				t.Errorf("want -, got +\n%s", d)
			}
		})
	}
}

func everyCase(executortest.Case) bool { return true }

// grants are the entitlements that the cases need.
var grants = []string{"--allow=fs=*", "--allow=network.host", "--allow=security.insecure"}

// TestConformance shows that each case of executortest gives the recorded image with the embedded engine, as an
// unprivileged user, with BuildKit, and with BuildKit as the engine of bake. BAKE_UPDATE=1 records what BuildKit
// builds.
func TestConformance(t *testing.T) {
	all, err := executortest.Cases()
	if err != nil {
		t.Fatal(err)
	}
	address := serveBases(t)
	const kept = "../../executor/executortest/testdata/cases"
	if os.Getenv("BAKE_UPDATE") != "1" {
		t.Run("embedded", func(t *testing.T) {
			needSandbox(t)
			c := newCLI(t)
			stderr := buildCases(t, c, address, all)
			results := builtResults(t, c.dir, all)
			if os.Getenv("BAKE_UPDATE") == "own" {
				if err := executortest.UpdateWants(kept, results, true); err != nil {
					t.Fatal(err)
				}
				return
			}
			compare(t, all, results, everyCase)
			checkMessages(t, c, all, stderr)
		})
	}
	t.Run("rootless", func(t *testing.T) {
		c := newCLI(t)
		c.user = testUser(t)
		stderr := buildCases(t, c, address, all)
		compare(t, all, rootless(t, all, builtResults(t, c.dir, all), stderr), everyCase)
	})
	// Both builds use one daemon. For the second it reuses the steps whose operations are equal and runs those that
	// differ, which are the ones that the second build is about.
	peer := startBuildKit(t)
	t.Run("buildkit", func(t *testing.T) {
		dir := t.TempDir()
		if err := executortest.WriteProject(dir, address, all); err != nil {
			t.Fatal(err)
		}
		peer.bakeCases(t, dir, all)
		results := builtResults(t, dir, all)
		if os.Getenv("BAKE_UPDATE") != "1" {
			compare(t, all, results, func(executortest.Case) bool { return false })
			return
		}
		if err := executortest.UpdateWants(kept, results, false); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("daemon", func(t *testing.T) {
		c := newCLI(t)
		buildCases(t, c, address, all, "--engine="+peer.address)
		compare(t, all, builtResults(t, c.dir, all), func(c executortest.Case) bool { return c.Frontend })
	})
}

// checkMessages fails for each case whose build failed without its message. Of many Dockerfiles that cannot be planned,
// one build names the first few, so the others are built alone.
func checkMessages(t *testing.T, c *cli, all []executortest.Case, stderr string) {
	t.Helper()
	for _, one := range all {
		if one.Want != executortest.Fails || strings.Contains(stderr, one.Message) {
			continue
		}
		_, alone, _ := c.run(t, "build", "--progress=quiet", "--provenance=false", one.Name)
		if !strings.Contains(alone, one.Message) {
			t.Errorf("%s: %q is not in the output:\n%s", one.Name, one.Message, linesWith(alone, one.Name))
		}
	}
}

// buildCases builds all cases in the directory of c and returns stderr.
func buildCases(t *testing.T, c *cli, registry string, all []executortest.Case, flags ...string) string {
	t.Helper()
	if err := executortest.WriteProject(c.dir, registry, all); err != nil {
		t.Fatal(err)
	}
	if c.user != nil {
		giveTo(t, c.user, c.dir)
		giveTo(t, c.user, c.cache)
	}
	_, stderr, _ := c.run(t, append([]string{"build", "--progress=quiet", "-j", "defer-error", "--provenance=false"},
		slices.Concat(grants, flags)...)...)
	if log := os.Getenv("BAKE_OWN_LOG"); log != "" {
		if err := os.WriteFile(log, []byte(stderr), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return stderr
}

// rootless checks the cases that only root of the host can build: an unprivileged user gets the recorded message. It
// returns the results with the expected ones for these cases.
func rootless(t *testing.T, all []executortest.Case, results map[string]string, stderr string) map[string]string {
	t.Helper()
	for _, c := range all {
		if c.Rootless == "" {
			continue
		}
		if results[c.Name] != executortest.Fails || !strings.Contains(stderr, c.Rootless) {
			t.Errorf("%s: %q is not in the output:\n%s", c.Name, c.Rootless, linesWith(stderr, c.Name))
		}
		results[c.Name] = c.Want
		if c.Reason != "" {
			results[c.Name] = c.Own
		}
	}
	return results
}

// testUser returns the unprivileged user named by BAKE_TEST_USER, who has subordinate ids.
func testUser(t *testing.T) *syscall.Credential {
	t.Helper()
	name := os.Getenv("BAKE_TEST_USER")
	if name == "" || os.Geteuid() != 0 {
		skip(t, "needs root, and BAKE_TEST_USER to name an unprivileged user with subordinate ids (.ci/test makes one)")
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(number(t, u.Uid)), Gid: uint32(number(t, u.Gid))}
}

// giveTo makes the user the owner of all files below dir, keeps their modes, and lets the user reach dir.
func giveTo(t *testing.T, u *syscall.Credential, dir string) {
	t.Helper()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if err := os.Lchown(path, int(u.Uid), int(u.Gid)); err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return unix.Chmod(path, st.Mode&0o7777) // a new owner takes setuid away
	})
	if err != nil {
		t.Fatal(err)
	}
}

// linesWith returns the lines that contain the name of a case.
func linesWith(stderr, name string) string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if strings.Contains(line, name) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// buildKit is a daemon that only this test uses, and buildx configured for it.
type buildKit struct{ buildx, config, address string }

// startBuildKit starts buildkitd on an empty root and stops it when the test ends.
func startBuildKit(t *testing.T) buildKit {
	t.Helper()
	if _, err := exec.LookPath("buildx"); err != nil && os.Geteuid() == 0 {
		skip(t, "needs buildx (.ci/peers builds it)")
	}
	k := buildKit{buildx: "buildx", config: t.TempDir(), address: startDaemon(t, "").address}
	if out, err := k.command("create", "--name", "peer", "--driver", "remote", k.address).CombinedOutput(); err != nil {
		t.Fatalf("buildx create: %v\n%s", err, out)
	}
	return k
}

// command returns a buildx command.
func (k buildKit) command(args ...string) *exec.Cmd {
	cmd := exec.Command(k.buildx, args...)
	cmd.Env = append(os.Environ(), "BUILDX_CONFIG="+k.config, "DOCKER_CONFIG="+k.config)
	return cmd
}

// bakeCases builds all cases. Once a target has failed, buildx may exit before it has written the other outputs, so the
// cases that fail are built last, and a case without a whole output is built once more, alone.
func (k buildKit) bakeCases(t *testing.T, dir string, all []executortest.Case) {
	t.Helper()
	var building, failing []string
	for _, c := range all {
		if c.Want == executortest.Fails {
			failing = append(failing, c.Name)
		} else {
			building = append(building, c.Name)
		}
	}
	const atOnce = 60 // one build of all takes buildkitd minutes of CPU and gigabytes
	for names := range slices.Chunk(building, atOnce) {
		k.bake(t, dir, names...)
	}
	for names := range slices.Chunk(failing, atOnce) {
		k.bake(t, dir, names...)
	}
	for _, c := range all {
		left := outputOf(t, filepath.Join(dir, "out", c.Name+".tar"))
		if left == truncated || left == missing && c.Want != executortest.Fails {
			t.Logf("buildx left no whole output of %s", c.Name)
			k.bake(t, dir, c.Name)
		}
	}
}

// output is what a build has left of a tar file.
type output int

const (
	missing output = iota
	truncated
	whole
)

// outputOf returns what there is of a tar file: a truncated one lacks the two blocks of zeros at its end.
func outputOf(t *testing.T, name string) output {
	t.Helper()
	raw, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing
	case err != nil:
		t.Fatal(err)
	case !bytes.HasSuffix(raw, make([]byte, 1024)):
		return truncated
	}
	return whole
}

// bake builds the named targets of the project in dir, or all. Targets that fail leave no output.
func (k buildKit) bake(t *testing.T, dir string, targets ...string) {
	t.Helper()
	args := append([]string{"bake", "--builder", "peer", "--progress=plain", "-j", "defer-error", "--provenance=false"},
		grants...)
	cmd := k.command(append(args, targets...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "ERROR") {
		t.Fatalf("buildx bake: %v\n%s", err, out)
	}
	if log := os.Getenv("BAKE_PEER_LOG"); log != "" {
		if err := os.WriteFile(log, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
