package main

import (
	"crypto/ed25519"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// testKey creates a private key and returns it with its file.
func testKey(t *testing.T, dir string) (ed25519.PrivateKey, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return key, file
}

// TestSSHMount shows that a step can use the keys of an agent or of files but cannot change them.
func TestSSHMount(t *testing.T) { testSSHMount(t, nil) }

// TestSSHMountRootless shows the same for a step of an unprivileged user.
func TestSSHMountRootless(t *testing.T) { testSSHMount(t, testUser(t)) }

// serveAgent starts an ssh agent with a key that is also in a file, and returns its socket and that file.
func serveAgent(t *testing.T, dir string) (socket, file string) {
	t.Helper()
	key, file := testKey(t, dir)
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: key, Comment: "mine"}); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			go func() { _ = agent.ServeAgent(keys, conn) }()
		}
	}()
	return socket, file
}

// testSSHMount builds with ssh mounts of each kind as a user, or as the user of the test.
func testSSHMount(t *testing.T, user *syscall.Credential) {
	needSandbox(t)
	c := newCLI(t)
	c.user = user
	build := exec.Command("go", "build", "-o", filepath.Join(c.dir, "agent"), "./testdata/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	socket, file := serveAgent(t, c.dir)
	if user != nil {
		giveTo(t, user, c.dir)
		giveTo(t, user, c.cache)
	}
	for _, test := range []struct {
		name, mount, attribute, socket, want, fails string
	}{
		{"agent", "", `"default"`, socket, "600 0:0\nmine signs: <nil>\nremove all: true, lock: true\n", ""},
		{"look", ",mode=0664,uid=5,gid=6", `"default"`, socket,
			"664 5:6\nmine signs: <nil>\nremove all: true, lock: true\n", ""},
		{"socket", ",id=s", `"s=` + socket + `"`, "", "600 0:0\nmine signs: <nil>\nremove all: true, lock: true\n", ""},
		{"key", ",id=k", `"k=` + file + `"`, "", "600 0:0\nkey signs: <nil>\nremove all: true, lock: true\n", ""},
		{"optional", "", "", "", "no such file or directory\n", ""},
		{"required", ",required", "", "", "", `SSH agent or key "default" not found`},
		{"unset", "", `"default"`, "", "", "SSH_AUTH_SOCK is not set"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.env["SSH_AUTH_SOCK"] = test.socket
			c.write(t, "Dockerfile", "FROM scratch\nCOPY agent /agent\nRUN --mount=type=ssh"+test.mount+
				" [\"/agent\"]\nLABEL test="+test.name+"\n")
			c.write(t, "bake.hcl", "target \"default\" {\n  ssh = ["+test.attribute+
				"]\n  output = [\"type=tar,dest=out.tar\"]\n}\n")
			_, stderr, code := c.run(t, "build", "--progress=none", "--no-cache", "--allow=ssh", "--allow=fs=*")
			if test.fails != "" {
				if code == 0 || !strings.Contains(stderr, test.fails) {
					t.Errorf("exit %d, want %q in:\n%s", code, test.fails, stderr)
				}
				return
			}
			if code != 0 {
				t.Fatal(stderr)
			}
			if got := tarFiles(t, filepath.Join(c.dir, "out.tar"))["said"]; got != test.want {
				t.Errorf("the step says %q, want %q", got, test.want)
			}
		})
	}
}
