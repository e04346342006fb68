package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// canaryText is in a file of the host that no build may see. Steps must not write it either: it is in no Dockerfile.
const canaryText = "canary-of-the-host"

// hostile is one build that tries to reach the host. In its texts CANARY stands for a directory of the host with the
// file secret, REGISTRY for the registry of the bases, and HOSTILE for the base that layers and config describe.
type hostile struct {
	name  string // the advisory, or the attempt
	files map[string]string
	// setup creates files that are not plain text in the directory of the project.
	setup func(t *testing.T, dir, canary string)
	// layers are added to busybox and config changes its config; the result is REGISTRY/hostile/NAME:1.
	layers [][]tar.Header
	config func(*v1.Config)
	target string // attributes of the target
	env    map[string]string
	// fails is a part of the message of a build that is refused. It is empty for a build that succeeds and is
	// contained: its files do not have the canary's text.
	fails string
	// mayFail is a part of the message of a build that succeeds or is refused, depending on which step is first.
	mayFail string
	// absent must not be in the output.
	absent string
}

// world is the state of the host that hostile builds must not change. Of the program of bake it has inode, size and
// times, which every write changes. The mounts are those of a namespace that only the test uses.
type world struct{ canary, mounts, tree, binary string }

// look records the state of the host.
func look(t *testing.T, canary string) world {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var self unix.Stat_t
	if err := unix.Stat(bakeCommand(t).Path, &self); err != nil {
		t.Fatal(err)
	}
	self.Atim = unix.Timespec{} // changes when the program runs
	var b strings.Builder
	err = filepath.WalkDir(canary, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, p, info.Mode(), info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			raw, err := os.ReadFile(p)
			fmt.Fprintf(&b, "%q %v\n", raw, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return world{canary, string(mounts), b.String(), fmt.Sprint(self)}
}

// check fails the test if the state of the host has changed since.
func (w world) check(t *testing.T) {
	t.Helper()
	now := look(t, w.canary)
	for _, d := range []string{cmp.Diff(w.mounts, now.mounts), cmp.Diff(w.tree, now.tree),
		cmp.Diff(w.binary, now.binary)} {
		if d != "" {
			t.Errorf("the host was changed: %s", d)
		}
	}
}

// ownMounts reports whether this process has a mount namespace of its own. If not, it runs the test in a process that
// has one, and the caller returns. So every new mount the test finds is from its own builds, whatever else the machine
// does. Mounts are shared with the namespaces of steps, as on a machine with systemd, so that a leaked mount is
// visible.
func ownMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv("BAKE_TEST_OWN_MOUNTS") != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v="+strconv.FormatBool(testing.Verbose()),
		"-test.timeout=20m")
	cmd.Env = append(os.Environ(), "BAKE_TEST_OWN_MOUNTS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in a mount namespace of its own: %v", err)
	}
	t.Logf("%s", out)
	return false
}

// TestHostile shows that builds cannot do what the advisories of builders and runtimes describe. Other attacks are
// tested where they are handled: manifests, credentials and redirects in executor/registry (CVE-2020-15157,
// CVE-2021-41190, oras-go, regclient, ggcr #2193), single tar entries in executor/embedded/layers, ops that no front
// end creates in executor/embedded (CVE-2024-23650, GHSA-qx3x, GHSA-7236, GHSA-32pv), bombs in planner and config,
// archives and repositories of hostile servers in config (CVE-2026-33748, GHSA-49p4, GHSA-vp35).
func TestHostile(t *testing.T) {
	needSandbox(t)
	if !ownMounts(t) {
		return
	}
	registry := serveBases(t)
	canary := filepath.Join(t.TempDir(), "host")
	for name, text := range map[string]string{"secret": canaryText, "passwd": "app:x:" + canaryText + ":0::/:\n",
		"d/inner": canaryText} {
		file := filepath.Join(canary, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := look(t, canary)
	t.Cleanup(func() { before.check(t) })
	for name, user := range map[string]*syscall.Credential{"root": nil, "user": testUser(t)} {
		t.Run(name, func(t *testing.T) {
			for _, h := range hostiles(t) {
				t.Run(h.name, func(t *testing.T) {
					t.Parallel()
					h.run(t, registry, before, user)
				})
			}
		})
	}
}

// run builds the case and checks its result and the state of the host.
func (h hostile) run(t *testing.T, registry string, before world, user *syscall.Credential) {
	c := newCLI(t)
	c.user = user
	base := "hostile/" + strings.ToLower(strings.NewReplacer(" ", "-", "/", "-", ",", "").Replace(h.name))
	fill := strings.NewReplacer("CANARY", before.canary, "REGISTRY", registry, "HOSTILE", registry+"/"+base+":1")
	if h.layers != nil || h.config != nil {
		h.push(t, registry, base, fill)
	}
	for name, text := range h.files {
		c.write(t, name, fill.Replace(text))
	}
	c.write(t, "docker-bake.hcl", fmt.Sprintf("target \"default\" {\n  output = [\"type=local,dest=out\"]\n%s\n}\n",
		fill.Replace(h.target)))
	if h.setup != nil {
		h.setup(t, c.dir, before.canary)
	}
	for k, v := range h.env {
		c.env[k] = fill.Replace(v)
	}
	if user != nil {
		giveTo(t, user, c.dir)
		giveTo(t, user, c.cache)
	}
	_, stderr, code := c.run(t, "build", "--progress=plain")
	before.check(t)
	switch {
	case strings.Contains(stderr, "panic:") || strings.Contains(stderr, "goroutine "):
		t.Errorf("bake panics: %s", stderr)
	case h.fails != "" && (code == 0 || !strings.Contains(stderr, fill.Replace(h.fails))):
		t.Errorf("exit %d, want a message with %q, got %s", code, h.fails, stderr)
	case h.fails == "" && code != 0 && (h.mayFail == "" || !strings.Contains(stderr, h.mayFail)):
		t.Errorf("exit %d: %s", code, stderr)
	}
	if strings.Contains(stderr, canaryText) || h.absent != "" && strings.Contains(stderr, h.absent) {
		t.Errorf("the output has text that it must not have: %s", stderr)
	}
	noCanary(t, filepath.Join(c.dir, "out"))
}

// noCanary fails the test if a file that a build has written contains the canary's text.
func noCanary(t *testing.T, dir string) {
	t.Helper()
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > 1<<16 {
			return nil
		}
		if raw, err := os.ReadFile(p); err == nil && bytes.Contains(raw, []byte(canaryText)) {
			t.Errorf("%s has the canary's text", p)
		}
		return nil
	})
}

// push creates the base of the case and pushes it. The content of a file is the Uname of its header.
func (h hostile) push(t *testing.T, registry, base string, fill *strings.Replacer) {
	t.Helper()
	image, err := crane.Pull(registry+"/busybox:1", crane.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	for _, headers := range h.layers {
		var raw bytes.Buffer
		w := tar.NewWriter(&raw)
		for _, e := range headers {
			text := fill.Replace(e.Uname)
			e.Uname, e.Linkname, e.Format = "", fill.Replace(e.Linkname), tar.FormatPAX
			if e.Typeflag == tar.TypeReg {
				e.Size = int64(len(text))
			}
			if err := w.WriteHeader(&e); err != nil {
				t.Fatal(err)
			}
			if e.Typeflag == tar.TypeReg {
				_, _ = io.WriteString(w, text)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser,
			error) {
			return io.NopCloser(bytes.NewReader(raw.Bytes())), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			t.Fatal(err)
		}
	}
	if h.config != nil {
		file, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		file = file.DeepCopy()
		h.config(&file.Config)
		if image, err = mutate.ConfigFile(image, file); err != nil {
			t.Fatal(err)
		}
	}
	if err := crane.Push(image, registry+"/"+base+":1", crane.Insecure); err != nil {
		t.Fatal(err)
	}
}

// layerFile returns the entry of a file of a hostile layer; its content is in Uname.
func layerFile(name, text string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Uname: text}
}

// layerLink returns the entry of a symbolic link.
func layerLink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}
}

// hardLink returns the entry of a hard link.
func hardLink(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}
}

// contextLink returns a setup that creates a symbolic link in the context. CANARY stands for the canary.
func contextLink(target, name string) func(*testing.T, string, string) {
	return func(t *testing.T, dir, canary string) {
		if err := os.Symlink(strings.ReplaceAll(target, "CANARY", canary), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// one returns the files of a project that has only a Dockerfile.
func one(dockerfile string) map[string]string { return map[string]string{"Dockerfile": dockerfile} }

// listeners serves the canary's text over HTTP on loopback and listens on an abstract socket until the test ends.
func listeners(t *testing.T) (address, abstract string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_,
			_ = io.WriteString(w, canaryText)
	}))
	t.Cleanup(server.Close)
	abstract = fmt.Sprintf("bake-hostile-%d", os.Getpid())
	l, err := net.Listen("unix", "@"+abstract)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return strings.TrimPrefix(server.URL, "http://"), abstract
}

// TestHostileOutput shows that output to a directory does not follow links that an earlier image left there
// (GHSA-g2h8-426c-7976).
func TestHostileOutput(t *testing.T) {
	needSandbox(t)
	if !ownMounts(t) {
		return
	}
	c := newCLI(t)
	canary := filepath.Join(t.TempDir(), "host")
	if err := os.Mkdir(canary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(canary, "secret"), []byte(canaryText), 0o644); err != nil {
		t.Fatal(err)
	}
	before := look(t, canary)
	for link, to := range map[string]string{"link": canary, "file": filepath.Join(canary, "secret")} {
		if err := errors.Join(os.MkdirAll(filepath.Join(c.dir, "out"), 0o755),
			os.Symlink(to, filepath.Join(c.dir, "out", link))); err != nil {
			t.Fatal(err)
		}
	}
	c.write(t, "docker-bake.hcl", "target \"default\" {\n  output = [\"type=local,dest=out\"]\n}\n")
	c.write(t, "Dockerfile", "FROM scratch\nCOPY evil /link/secret\nCOPY evil /link/new\nCOPY evil /file\n")
	c.write(t, "evil", "evil")
	_, stderr, code := c.run(t, "build")
	before.check(t)
	if code == 0 {
		if raw, err := os.ReadFile(filepath.Join(c.dir, "out/link/secret")); err != nil || string(raw) != "evil" {
			t.Errorf("the output is not there: %q, %v", raw, err)
		}
	} else if !strings.Contains(stderr, "out") {
		t.Errorf("exit %d, want a message that names the output: %s", code, stderr)
	}
}

// TestCacheIsPrivate shows that other users cannot reach the files of layers, such as a setuid one (CVE-2021-41103).
func TestCacheIsPrivate(t *testing.T) {
	needSandbox(t)
	registry := serveBases(t)
	c := newCLI(t)
	c.cache = filepath.Join(c.cache, "made", "cache")
	c.write(t, "docker-bake.hcl", "target \"default\" {\n  output = [\"type=cacheonly\"]\n}\n")
	c.write(t, "Dockerfile", "FROM "+registry+"/busybox:1\nRUN cp /bin/busybox /suid && chmod 4755 /suid\n")
	c.ok(t, "build")
	found := 0
	err := filepath.WalkDir(c.cache, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "suid" {
			return err
		}
		found++
		for dir := filepath.Dir(p); strings.HasPrefix(dir, c.cache); dir = filepath.Dir(dir) {
			if info, err := os.Stat(dir); err != nil || info.Mode()&0o011 == 0 {
				return err
			}
		}
		t.Errorf("every user can reach %s", p)
		return nil
	})
	if err != nil || found == 0 {
		t.Errorf("%d files found, %v", found, err)
	}
}
