package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bakebuild/bake/executor/executortest"
)

// identity returns a directory with ca.pem, the authority its owner trusts, and with cert.pem and key.pem, which
// another authority issued for the names until a time.
func identity(t *testing.T, trusts, by *executortest.Authority, until time.Time, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	cert, key, err := by.Issue(until, names...)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"ca.pem": trusts.PEM, "cert.pem": cert, "key.pem": key} {
		writeFile(t, filepath.Join(dir, name), string(content))
	}
	return dir
}

// newAuthority returns a new certificate authority.
func newAuthority(t *testing.T) *executortest.Authority {
	t.Helper()
	a, err := executortest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// startTLS starts a server that completes TLS handshakes and ignores everything else. It returns HOST:PORT.
func startTLS(t *testing.T, dir string) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, conn)
		}
	}()
	return l.Addr().String()
}

// fakeCommand puts a shell script under a name on the PATH of c, before the real command.
func fakeCommand(t *testing.T, c *cli, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := c.env["PATH"]
	if path == "" {
		path = os.Getenv("PATH")
	}
	c.env["PATH"] = dir + string(filepath.ListSeparator) + path
}

// dialer returns a command line for which docker, kubectl and ssh are fakes. They check their arguments and connect to
// the daemon.
func dialer(t *testing.T, d *daemon) *cli {
	t.Helper()
	if _, err := exec.LookPath("buildctl"); err != nil {
		skip(t, "needs buildctl (.ci/peers builds it)")
	}
	c := newCLI(t)
	c.write(t, "bake.hcl", "target \"default\" {\n  context = \".\"\n"+
		"  dockerfile-inline = \"FROM scratch\\nCOPY bake.hcl /\"\n}\n")
	c.env["BUILDKIT_HOST"] = ""
	there := "exec buildctl --addr " + d.address + " dial-stdio"
	fakeCommand(t, c, "docker", `[ "$*" = "exec -i there buildctl dial-stdio" ] && `+there+`
echo "Error: No such container: $3" >&2; exit 1`)
	const kubectl = "--context=c --namespace=n exec --container=b -i there -- buildctl dial-stdio"
	fakeCommand(t, c, "kubectl", `[ "$*" = "`+kubectl+`" ] && `+there+`
echo "Error from server (NotFound): pods \"there\" not found" >&2; exit 1`)
	fakeCommand(t, c, "ssh", `case "$*" in
"-l me -p 2222 -- there buildctl dial-stdio") `+there+`;;
"-- there buildctl --addr `+d.address+` dial-stdio") `+there+`;;
esac
echo "me@there: Permission denied (publickey)." >&2; exit 255`)
	return c
}

// TestAddresses: every kind of address reaches a daemon; who is not let in, and what leads nowhere, is told in one message.
func TestAddresses(t *testing.T) {
	port, secure := reservePort(t), reservePort(t)
	ours, others := newAuthority(t), newAuthority(t)
	soon, gone := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	of := identity(t, ours, ours, soon, "builder.test", "127.0.0.1")
	d := startDaemon(t, "", "--addr", "tcp://127.0.0.1:"+port)
	closed := startDaemon(t, "", "--addr", "tcp://127.0.0.1:"+secure,
		"--tlscacert", filepath.Join(of, "ca.pem"), "--tlscert", filepath.Join(of, "cert.pem"), "--tlskey",
		filepath.Join(of, "key.pem"))
	late := startTLS(t, identity(t, ours, ours, gone, "127.0.0.1"))
	me := identity(t, ours, ours, soon, "me")
	named := identity(t, ours, ours, soon, "me")
	for was, is := range map[string]string{"ca.pem": "ca.crt", "cert.pem": "tls.crt", "key.pem": "tls.key"} { // as in Kubernetes
		if err := os.Rename(filepath.Join(named, was), filepath.Join(named, is)); err != nil {
			t.Fatal(err)
		}
	}
	c := dialer(t, d)
	socket := strings.TrimPrefix(d.address, "unix://")
	closedAt := "tcp+tls://127.0.0.1:" + secure
	for _, address := range []string{
		d.address, "tcp://127.0.0.1:" + port, "buildkit://localhost:" + port, "docker-container://there",
		"kube-pod://there?context=c&namespace=n&container=b", "ssh://me@there:2222", "ssh://there" + socket,
		closed.address,
		closedAt + "?dir=" + me, closedAt + "?dir=" + named, closedAt + "?servername=builder.test&dir=" + me,
		fmt.Sprintf("%s?ca=%[2]s/ca.pem&cert=%[2]s/cert.pem&key=%[2]s/key.pem", closedAt, me),
	} {
		_, stderr := c.ok(t, "build", "--engine", address)
		wantMatch(t, address, stderr, "(?m)^built default:latest sha256:")
	}
	for _, bad := range []struct {
		address string
		code    int
		want    string
	}{
		{closedAt, exitRegistry, "signed by unknown authority"},
		{closedAt + "?ca=" + filepath.Join(me, "ca.pem"), exitRegistry, "certificate required"},
		{closedAt + "?dir=" + identity(t, others, ours, soon, "me"), exitRegistry, "signed by unknown authority"},
		{closedAt + "?dir=" + identity(t, ours, others, soon, "me"), exitRegistry,
			"(unknown certificate authority|bad certificate)"},
		{closedAt + "?dir=" + identity(t, ours, ours, gone, "me"), exitRegistry,
			"(expired certificate|bad certificate)"},
		{closedAt + "?servername=other.test&dir=" + me, exitRegistry, "not other.test"},
		{"tcp+tls://" + late + "?dir=" + me, exitRegistry, "has expired"},
		{"tcp+tls://127.0.0.1:" + port + "?dir=" + me, exitRegistry, "does not look like a TLS handshake"},
		{"tcp://127.0.0.1:" + secure, exitRegistry, "cannot connect"},
		{"tcp://127.0.0.1:" + reservePort(t), exitRegistry, "connection refused"},
		{closedAt + "?dir=" + t.TempDir(), exitUsage, "no ca.pem or ca.crt in"},
		{closedAt + "?ca=/nowhere/ca.pem", exitUsage, "/nowhere/ca.pem: no such file"},
		{closedAt + "?cert=" + filepath.Join(me, "cert.pem"), exitUsage,
			"a certificate and its key are needed together"},
		{closedAt + "?ca=" + filepath.Join(me, "key.pem"), exitUsage, "key.pem contains no certificate"},
		{fmt.Sprintf("%s?ca=%[2]s/ca.pem&cert=%[2]s/cert.pem&key=%[3]s/key.pem", closedAt, me, of), exitUsage,
			"private key does not match"},
		{"docker-container://elsewhere", exitRegistry, "No such container: elsewhere"},
		{"kube-pod://elsewhere", exitRegistry, "pods .* not found"},
		{"kube-pod://el_sewhere", exitUsage, `unsupported pod name`},
		{"ssh://elsewhere", exitRegistry, `Permission denied \(publickey\)`},
		{"ssh://me:secret-of-mine@elsewhere", exitUsage, "password is not supported"},
		{"podman-container://there", exitRegistry, `podman`},
	} {
		_, stderr, code := c.run(t, "build", "--engine", bad.address)
		if code != bad.code {
			t.Errorf("%s: exit %d, want %d", bad.address, code, bad.code)
		}
		wantMatch(t, bad.address, stderr, bad.want)
		if n := strings.Count(stderr, "\n"); n > 3 || strings.Contains(stderr, "secret-of-mine") {
			t.Errorf("%s: what is said is not one message, or says too much:\n%s", bad.address, stderr)
		}
	}
}
