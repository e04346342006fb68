package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// daemon is a buildkitd that only this test uses.
type daemon struct {
	*service

	address string
}

// startDaemon starts buildkitd with a configuration and additional flags; it ends with the test. Its root is empty and
// in memory, because buildkitd syncs everything it writes, which no test needs. Its namespaces remove what it leaves.
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
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o711); err != nil {
		t.Fatal(err)
	}
	address := "unix://" + socket
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
		"--mount-proc",
		"sh", "-c", `mount -t tmpfs bake-test "$1" && shift && exec "$@"`, "sh", root,
		"buildkitd", "--root", root, "--addr", address, "--config", filepath.Join(dir, "toml"),
		"--oci-worker=true", "--containerd-worker=false",
		"--allow-insecure-entitlement=network.host", "--allow-insecure-entitlement=security.insecure")
	cmd.Args = append(cmd.Args, flags...)
	cmd.Stdout, cmd.Stderr = log, log
	return &daemon{startService(t, cmd, log.Name(), answers("unix", socket)), address}
}

// shortDir returns a directory whose path is short enough for a socket. It is removed when the test ends.
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

// builderOn returns a command line that builds on daemons.
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

// serviceProject returns a project file with n targets that share a stage. Target i writes i to /n after a pause of
// i modulo 20 tenths of a second.
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

// quoted returns the numbers below n in a format, quoted and separated by commas.
func quoted(n int, format string) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%q", fmt.Sprintf(format, i)))
	}
	return strings.Join(all, ", ")
}
