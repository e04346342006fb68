package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// daemon is a buildkitd of the test's own.
type daemon struct {
	address string
	process *exec.Cmd
}

// startDaemon starts buildkitd on an empty root in memory, in namespaces of its own so that nothing is left of it, with a
// configuration and more flags. It ends with the test. In memory, since it syncs all that it writes, and nobody reads that after a crash.
func startDaemon(t *testing.T, config string, flags ...string) *daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "buildkitd needs root")
	}
	for _, program := range []string{"buildkitd", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			skip(t, "needs %s (.ci/peers builds buildkitd)", program)
		}
	}
	dir := shortDir(t)
	socket := filepath.Join(dir, "s")
	writeFile(t, filepath.Join(dir, "toml"), config)
	said, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o711); err != nil {
		t.Fatal(err)
	}
	d := &daemon{address: "unix://" + socket}
	d.process = exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
		"--mount-proc",
		"sh", "-c", `mount -t tmpfs bake-test "$1" && shift && exec "$@"`, "sh", root,
		"buildkitd", "--root", root, "--addr", d.address, "--config", filepath.Join(dir, "toml"),
		"--oci-worker=true", "--containerd-worker=false",
		"--allow-insecure-entitlement=network.host", "--allow-insecure-entitlement=security.insecure")
	d.process.Args = append(d.process.Args, flags...)
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d.process.Stdout, d.process.Stderr = said, said
	if err := d.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.kill)
	for range 300 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return d
		}
		time.Sleep(100 * time.Millisecond)
	}
	log, _ := os.ReadFile(said.Name())
	t.Fatalf("buildkitd does not answer:\n%s", log)
	return nil
}

// shortDir is a folder with a path that is short enough for a socket; it goes when the test ends.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// kill ends the daemon and all that it runs, at once.
func (d *daemon) kill() {
	_ = d.process.Process.Kill() // it may have ended
	_ = d.process.Wait()         // its exit code after a signal says nothing
}

// builderOn is a command line that builds on daemons.
func builderOn(t *testing.T, daemons ...*daemon) *cli {
	t.Helper()
	c := newCLI(t)
	var all []string
	for _, d := range daemons {
		all = append(all, d.address)
	}
	c.env["BUILDKIT_HOST"] = strings.Join(all, ",")
	return c
}

// serviceProject is a project file of n targets on a base that share a stage; each makes the file /n with its number, after a
// pause of that many times 0.1 s modulo ten.
func serviceProject(registry string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "group \"default\" { targets = [%s] }\n", quoted(n, "t%d"))
	for i := range n {
		fmt.Fprintf(&b, `target "t%[2]d" {
  dockerfile-inline = <<EOT
FROM %[1]s/busybox:1 AS shared
RUN echo shared >/shared
FROM shared
RUN sleep %[3]d.%[4]d; echo %[2]d >/n
EOT
  output = ["type=oci,dest=out/t%[2]d.tar"]
}
`, registry, i, i%20/10, i%10)
	}
	return b.String()
}

func quoted(n int, format string) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%q", fmt.Sprintf(format, i)))
	}
	return strings.Join(all, ", ")
}
