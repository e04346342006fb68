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

// daemons are a daemon without TLS and one that requires client certificates, each also on a port of loopback.
type daemons struct {
	open, closed *daemon
	port, secure string // ports of open and closed
	at           string // address of closed, without its options

	ours, others *executortest.Authority
	soon, gone   time.Time // ends of valid and of expired certificates
	server, me   string    // identities of closed and of its client
}

// startDaemons starts both daemons.
func startDaemons(t *testing.T) *daemons {
	t.Helper()
	d := &daemons{
		port: reservePort(t), secure: reservePort(t), ours: newAuthority(t), others: newAuthority(t),
		soon: time.Now().Add(time.Hour), gone: time.Now().Add(-time.Hour),
	}
	d.at = "tcp+tls://127.0.0.1:" + d.secure
	d.me = identity(t, d.ours, d.ours, d.soon, "me")
	d.server = identity(t, d.ours, d.ours, d.soon, "builder.test", "127.0.0.1")
	d.open = startDaemon(t, "", "--addr", "tcp://127.0.0.1:"+d.port)
	d.closed = startDaemon(t, "", "--addr", "tcp://127.0.0.1:"+d.secure,
		"--tlscacert", filepath.Join(d.server, "ca.pem"),
		"--tlscert", filepath.Join(d.server, "cert.pem"),
		"--tlskey", filepath.Join(d.server, "key.pem"))
	return d
}

// TestAddresses shows that each kind of address reaches a daemon. Where access is denied or nothing answers, there is
// one message, and it has no password.
func TestAddresses(t *testing.T) {
	d := startDaemons(t)
	c := dialer(t, d.open)
	for _, address := range goodAddresses(t, d) {
		_, stderr := c.ok(t, "build", "--engine", address)
		wantMatch(t, address, stderr, "(?m)^(built|unchanged) default:latest sha256:")
	}
	for _, bad := range badAddresses(t, d) {
		_, stderr, code := c.run(t, "build", "--engine", bad.address)
		if code != bad.code {
			t.Errorf("%s: exit %d, want %d", bad.address, code, bad.code)
		}
		wantMatch(t, bad.address, stderr, bad.want)
		if n := strings.Count(stderr, "\n"); n > 3 || strings.Contains(stderr, "secret-of-mine") {
			t.Errorf("%s: want one message without the password, got:\n%s", bad.address, stderr)
		}
	}
}

// goodAddresses returns an address of each kind that reaches one of the daemons.
func goodAddresses(t *testing.T, d *daemons) []string {
	t.Helper()
	kubernetes := identity(t, d.ours, d.ours, d.soon, "me") // with the file names of a Kubernetes secret
	for from, to := range map[string]string{"ca.pem": "ca.crt", "cert.pem": "tls.crt", "key.pem": "tls.key"} {
		if err := os.Rename(filepath.Join(kubernetes, from), filepath.Join(kubernetes, to)); err != nil {
			t.Fatal(err)
		}
	}
	socket := strings.TrimPrefix(d.open.address, "unix://")
	return []string{
		d.open.address, "tcp://127.0.0.1:" + d.port, "buildkit://localhost:" + d.port, "docker-container://there",
		"kube-pod://there?context=c&namespace=n&container=b", "ssh://me@there:2222", "ssh://there" + socket,
		d.closed.address,
		d.at + "?dir=" + d.me, d.at + "?dir=" + kubernetes, d.at + "?servername=builder.test&dir=" + d.me,
		fmt.Sprintf("%s?ca=%[2]s/ca.pem&cert=%[2]s/cert.pem&key=%[2]s/key.pem", d.at, d.me),
	}
}

// badAddress is an address that reaches no daemon, with the exit code of a build and a pattern of its message.
type badAddress struct {
	address string
	code    int
	want    string
}

// badAddresses returns addresses with a wrong identity, of the wrong protocol, of nothing, and malformed ones.
func badAddresses(t *testing.T, d *daemons) []badAddress {
	t.Helper()
	expired := startTLS(t, identity(t, d.ours, d.ours, d.gone, "127.0.0.1"))
	return []badAddress{
		{d.at, exitRegistry, "signed by unknown authority"},
		{d.at + "?ca=" + filepath.Join(d.me, "ca.pem"), exitRegistry, "certificate required"},
		{d.at + "?dir=" + identity(t, d.others, d.ours, d.soon, "me"), exitRegistry, "signed by unknown authority"},
		{d.at + "?dir=" + identity(t, d.ours, d.others, d.soon, "me"), exitRegistry,
			"(unknown certificate authority|bad certificate)"},
		{d.at + "?dir=" + identity(t, d.ours, d.ours, d.gone, "me"), exitRegistry,
			"(expired certificate|bad certificate)"},
		{d.at + "?servername=other.test&dir=" + d.me, exitRegistry, "not other.test"},
		{"tcp+tls://" + expired + "?dir=" + d.me, exitRegistry, "has expired"},
		{"tcp+tls://127.0.0.1:" + d.port + "?dir=" + d.me, exitRegistry, "does not look like a TLS handshake"},
		{"tcp://127.0.0.1:" + d.secure, exitRegistry, "cannot connect"},
		{"tcp://127.0.0.1:" + reservePort(t), exitRegistry, "connection refused"},
		{d.at + "?dir=" + t.TempDir(), exitUsage, "no ca.pem or ca.crt in"},
		{d.at + "?ca=/nowhere/ca.pem", exitUsage, "/nowhere/ca.pem: no such file"},
		{d.at + "?cert=" + filepath.Join(d.me, "cert.pem"), exitUsage,
			"a certificate and its key are needed together"},
		{d.at + "?ca=" + filepath.Join(d.me, "key.pem"), exitUsage, "key.pem contains no certificate"},
		{fmt.Sprintf("%s?ca=%[2]s/ca.pem&cert=%[2]s/cert.pem&key=%[3]s/key.pem", d.at, d.me, d.server), exitUsage,
			"private key does not match"},
		{"docker-container://elsewhere", exitRegistry, "No such container: elsewhere"},
		{"kube-pod://elsewhere", exitRegistry, "pods .* not found"},
		{"kube-pod://el_sewhere", exitUsage, `unsupported pod name`},
		{"ssh://elsewhere", exitRegistry, `Permission denied \(publickey\)`},
		{"ssh://me:secret-of-mine@elsewhere", exitUsage, "password is not supported"},
		{"podman-container://there", exitRegistry, `podman`},
	}
}
