package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// withConfig returns an image with another config.
func withConfig(image v1.Image, config *v1.ConfigFile) (v1.Image, error) {
	return mutate.ConfigFile(image, config)
}

// dockerEngine starts a Docker engine in its own network namespace and returns its address. It ends with the test.
func dockerEngine(t *testing.T) string {
	t.Helper()
	return startDocker(t, "ip link set lo up", "--net")
}

// dockerOnHost starts an engine that reaches servers on the host's loopback. It does not change the host's network.
func dockerOnHost(t *testing.T) string {
	t.Helper()
	return startDocker(t, "true")
}

// startDocker runs a command and then a Docker engine in new mount and process namespaces. Flags for unshare add
// others.
func startDocker(t *testing.T, before string, more ...string) string {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil || os.Geteuid() != 0 {
		skip(t, "a Docker engine needs root and dockerd (Debian: docker.io)")
	}
	dir, err := os.MkdirTemp("", "bake-dockerd-")
	if err != nil {
		t.Fatal(err)
	}
	address := "unix://" + dir + "/d.sock"
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // it may hold mounts of a dockerd that was killed
	script := fmt.Sprintf(`mount --make-rprivate / && %[3]s && mkdir %[1]s/data &&
		mount -t tmpfs bake-test %[1]s/data &&
		exec dockerd --data-root %[1]s/data --exec-root %[1]s/exec -H %[2]s --pidfile %[1]s/pid \
		--iptables=false --ip6tables=false --ip-forward=false --bridge=none >%[1]s/log 2>&1`, dir, address, before)
	args := slices.Concat(more, []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c",
		script})
	startService(t, exec.Command("unshare", args...), filepath.Join(dir, "log"), func() bool {
		return exec.Command("docker", "-H", address, "version").Run() == nil
	})
	return address
}

// dockerCLI runs a docker command that must succeed and returns its output.
func dockerCLI(t *testing.T, address string, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", append([]string{"-H", address}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestTutorialRunsInDocker shows that the tutorial's image, loaded into a Docker engine, answers over HTTP.
func TestTutorialRunsInDocker(t *testing.T) {
	c := newTutorial(t)
	address := dockerEngine(t)
	c.env["DOCKER_HOST"] = address
	c.ok(t, "image", "build", "-t", "python-hello-world", "--load", ".")
	dockerCLI(t, address, "run", "-d", "--name", "app", "--network", "host", "python-hello-world")
	ask := []string{"exec", "app", "python", "-c",
		"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:5000/').read().decode())"}
	var last string
	for dockerCLI(t, address, "inspect", "--format", "{{.State.Running}}", "app") == "true" {
		out, err := exec.Command("docker", append([]string{"-H", address}, ask...)...).CombinedOutput()
		if last = strings.TrimSpace(string(out)); err == nil && last == "hello world!" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("the container ended and did not answer \"hello world!\" over HTTP: %s\n%s", last,
		dockerCLI(t, address, "logs", "app"))
}

// TestTutorialPushed shows that another client reads the pushed image of the tutorial under the digest that was built.
func TestTutorialPushed(t *testing.T) {
	c := newTutorial(t)
	name := realBases(t) + "/pushed/python-hello-world:1"
	_, stderr := c.ok(t, "image", "build", "-t", name, "--push", ".")
	digest, err := crane.Digest(name, crane.Insecure, crane.WithContext(context.Background()))
	if err != nil {
		t.Fatal(err)
	}
	wantMatch(t, "the registry has the digest that was built", stderr, "built "+name+" "+digest)
	image, err := crane.Pull(name, crane.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(image); err != nil {
		t.Errorf("another client finds the image damaged: %v", err)
	}
}

// TestLoadFromDaemon shows that an image built by a BuildKit daemon runs in a Docker engine with the classic store.
// containerd, whose store newer engines use, imports the same archive.
func TestLoadFromDaemon(t *testing.T) {
	bases := serveBases(t)
	c := builderOn(t, startDaemon(t, ""))
	address := dockerEngine(t)
	c.env["DOCKER_HOST"] = address
	c.write(t, "bake.hcl", fmt.Sprintf(`target "default" {
  dockerfile-inline = "FROM %s/busybox:1\nRUN echo built >/made\nCMD [\"cat\", \"/made\"]"
  tags = ["second/loaded:1", "second/loaded:2"]
  output = ["type=docker", "type=docker,dest=loaded.tar"]
}
`, bases))
	c.ok(t, "build", "--allow=fs=*")
	for _, tag := range []string{"1", "2"} {
		if out := dockerCLI(t, address, "run", "--rm", "--network", "none", "second/loaded:"+tag); out != "built" {
			t.Errorf("the container says %q", out)
		}
	}
	dir := shortDir(t)
	script := fmt.Sprintf(`mount --make-rprivate /
		containerd --root %[1]s/root --state %[1]s/state --address %[1]s/s >%[1]s/log 2>&1 &
		until ctr -a %[1]s/s version >/dev/null 2>&1; do kill -0 %%1 || exit; sleep 0.1; done
		ctr -a %[1]s/s images import %[2]s && ctr -a %[1]s/s images ls -q; kill %%1; wait`,
		dir, filepath.Join(c.dir, "loaded.tar"))
	out, err := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-mc",
		script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, tag := range []string{"1", "2"} {
		wantMatch(t, "containerd's images", string(out), "(?m)^docker.io/second/loaded:"+tag+"$")
	}
}
