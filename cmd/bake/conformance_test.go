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

// serveBases serves the bases of the cases on loopback and returns where.
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

// made are the results of the cases in a project that was built, by name.
func made(t *testing.T, dir string, all []executortest.Case) map[string]string {
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

// compare reports the cases of which the results are not what is wanted.
func compare(t *testing.T, all []executortest.Case, results map[string]string, own bool) {
	t.Helper()
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			want := c.Want
			if own && c.Reason != "" {
				want = c.Own
			}
			if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(results[c.Name], "\n")); d != "" {
				t.Errorf("want -, got +\n%s", d)
			}
		})
	}
}

var grants = []string{"--allow=fs=*", "--allow=network.host", "--allow=security.insecure"}

// TestConformance: every case of executortest makes the image that it has noted, which is the one that BuildKit makes.
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
			results := made(t, c.dir, all)
			if os.Getenv("BAKE_UPDATE") == "own" {
				if err := executortest.UpdateWants(kept, results, true); err != nil {
					t.Fatal(err)
				}
				return
			}
			compare(t, all, results, true)
			for _, one := range all {
				if one.Want == executortest.Fails && !strings.Contains(stderr, one.Message) {
					t.Errorf("%s: %q is not in what is said:\n%s", one.Name, one.Message, about(stderr, one.Name))
				}
			}
		})
	}
	t.Run("rootless", func(t *testing.T) {
		c := newCLI(t)
		c.user = testUser(t)
		stderr := buildCases(t, c, address, all)
		compare(t, all, rootless(t, all, made(t, c.dir, all), stderr), true)
	})
	// Both builds are of one daemon. It takes what it has made of the first for the second where the operations are the same, and makes
	// again what is otherwise, which is what the second shows.
	peer := startBuildKit(t)
	t.Run("buildkit", func(t *testing.T) {
		dir := t.TempDir()
		if err := executortest.WriteProject(dir, address, all); err != nil {
			t.Fatal(err)
		}
		peer.bakeCases(t, dir, all)
		results := made(t, dir, all)
		if os.Getenv("BAKE_UPDATE") != "1" {
			compare(t, all, results, false)
			return
		}
		if err := executortest.UpdateWants(kept, results, false); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("daemon", func(t *testing.T) {
		c := newCLI(t)
		buildCases(t, c, address, all, "--engine="+peer.address)
		compare(t, all, made(t, c.dir, all), false)
	})
}

// buildCases builds all cases in the folder of c and returns what was said.
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

// rootless takes cases that need the host's root for what they are: an ordinary user gets the message that they have noted.
func rootless(t *testing.T, all []executortest.Case, results map[string]string, stderr string) map[string]string {
	t.Helper()
	for _, c := range all {
		if c.Rootless == "" {
			continue
		}
		if results[c.Name] != executortest.Fails || !strings.Contains(stderr, c.Rootless) {
			t.Errorf("%s: %q is not in what is said:\n%s", c.Name, c.Rootless, about(stderr, c.Name))
		}
		results[c.Name] = c.Want
		if c.Reason != "" {
			results[c.Name] = c.Own
		}
	}
	return results
}

// testUser is the ordinary user that BAKE_TEST_USER names, who has subordinate ids.
func testUser(t *testing.T) *syscall.Credential {
	t.Helper()
	name := os.Getenv("BAKE_TEST_USER")
	if name == "" || os.Geteuid() != 0 {
		skip(t, "needs root, and BAKE_TEST_USER to name an ordinary user with subordinate ids (.ci/test makes one)")
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(number(t, u.Uid)), Gid: uint32(number(t, u.Gid))}
}

// giveTo makes all below dir the user's, with the modes that it has, and lets the user get there.
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

// about are the lines that name a case.
func about(stderr, name string) string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if strings.Contains(line, name) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// buildKit is a daemon of the test's own, and buildx in front of it.
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

func (k buildKit) command(args ...string) *exec.Cmd {
	cmd := exec.Command(k.buildx, args...)
	cmd.Env = append(os.Environ(), "BUILDX_CONFIG="+k.config, "DOCKER_CONFIG="+k.config)
	return cmd
}

// bakeCases builds all cases. When many targets end at once, some fail as they are meant to, buildx may end before it has written
// another's output: that one is built again.
func (k buildKit) bakeCases(t *testing.T, dir string, all []executortest.Case) {
	t.Helper()
	k.bake(t, dir)
	for _, c := range all {
		if cut(t, filepath.Join(dir, "out", c.Name+".tar")) {
			t.Logf("%s was cut off", c.Name)
			k.bake(t, dir, c.Name)
		}
	}
}

// cut says whether a tar file lacks its end, two blocks of zeros.
func cut(t *testing.T, name string) bool {
	t.Helper()
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return !bytes.HasSuffix(raw, make([]byte, 1024))
}

// bake builds the project in dir, all of it where no target is named; targets that fail leave no output.
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
