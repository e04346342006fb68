package buildkitd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bakebuild/bake/executor/executortest"
)

func TestAddresses(t *testing.T) {
	certs := t.TempDir()
	authority, err := executortest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := authority.Issue(time.Now().Add(time.Hour), "farm")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"ca.pem": authority.PEM, "tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(certs, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		address, target string
		opts            int
		err             string
	}{
		{address: "unix:///run/buildkit/buildkitd.sock", target: "unix:///run/buildkit/buildkitd.sock"},
		{address: "docker-container://buildx0", target: "docker-container://buildx0", opts: 1},
		{address: "kube-pod://builder?namespace=ci", target: "kube-pod://builder?namespace=ci", opts: 1},
		{address: "ssh://me@host", target: "ssh://me@host", opts: 1},
		{address: "buildkit://farm", target: "tcp://farm:1234"},
		{address: "tcp://[::1]:99", target: "tcp://[::1]:99"},
		{address: "tcp+tls://farm:1", target: "tcp://farm:1", opts: 2},
		{address: "tcp+tls://farm?dir=" + certs, target: "tcp://farm:1234", opts: 2},
		{address: "tcp+tls://farm?ca=x&cert=y", err: "needed together"},
		{address: "tcp+tls://farm?dir=/nowhere", err: "no ca.pem"},
		{address: "tcp://farm?cert=a&key=b", err: "are for tcp+tls"},
		{address: "farm:1234", err: "use tcp://HOST"},
		{address: "tcp://", err: "expected tcp://HOST[:PORT]"},
		{address: "tcp://me:hunter22@farm", err: `"tcp://me:xxxxx@farm": expected tcp://HOST[:PORT]`},
		{address: "ssh://me:hunter22@farm", err: `"ssh://me:xxxxx@farm": plain-text password is not supported`},
		{address: "https://me:hunter22@farm", err: `"https://me:xxxxx@farm" is not an engine address`},
		{address: "tcp://me:hunter22@fa rm", err: "is not a URL"},
	} {
		target, opts, err := parseAddress(c.address)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.address, err, c.err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.address, err)
		case target != c.target || len(opts) != c.opts:
			t.Errorf("%s: %s with %d options, want %s with %d", c.address, target, len(opts), c.target, c.opts)
		}
	}
}
