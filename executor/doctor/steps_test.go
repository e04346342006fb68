package doctor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/bakebuild/bake/executor/embedded/network"
)

func TestSandbox(t *testing.T) {
	place{Check: "sandbox"}.in(t).want(t, OK, "namespaces", "")
	attr, _ := ordinary(t)
	place{Check: "sandbox", Enter: true, attr: attr, Cache: owned(t, attr)}.in(t).want(t, OK, "namespaces", "")
	// Filters of containers that refuse a system call of the setup.
	p := place{Check: "sandbox", Enter: true, attr: attr, Cache: owned(t, attr)}
	p.Denied = "pivot_root"
	p.in(t).want(t, Failure, "no step can be set up: enter the root: operation not permitted", "--privileged")
	for call, what := range map[string]string{"sethostname": "set the host name", "capset": "set capabilities"} {
		place{Check: "sandbox", Denied: call}.in(t).
			want(t, Failure, "no step can be set up: "+what+": operation not permitted", "--privileged")
	}
	place{Check: "sandbox", Absent: "close_range"}.in(t).
		want(t, Failure, "close descriptors: function not implemented", "")
}

func TestSeccomp(t *testing.T) {
	place{Check: "seccomp"}.in(t).want(t, OK, "filtered", "")
	place{Check: "seccomp", Denied: "seccomp"}.in(t).
		want(t, Failure, "cannot be loaded: load the system call filter", "seccomp=unconfined")
	place{Check: "seccomp", Denied: "pivot_root"}.in(t).want(t, Skipped, "see sandbox", "")
}

// TestOverlay runs the check on the file system of the test, in a user namespace, on file systems that cannot hold
// layers, and where mounts are forbidden.
func TestOverlay(t *testing.T) {
	place{Check: "overlay"}.in(t).want(t, OK, "layers can be mounted on", "")
	attr, _ := ordinary(t)
	place{Check: "overlay", Enter: true, attr: attr, Cache: owned(t, attr)}.in(t).
		want(t, OK, "layers can be mounted", "")
	place{Check: "overlay", Denied: "fsopen"}.in(t).
		want(t, Failure, "fsopen overlay: operation not permitted", "--privileged")

	dir := t.TempDir()
	cache := filepath.Join(dir, "merged", "cache")
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	on := strings.NewReplacer("DIR", dir).Replace(
		"mount -t overlay none -o lowerdir=DIR/lower,upperdir=DIR/upper,workdir=DIR/work DIR/merged\n" +
			"mkdir DIR/merged/cache")
	place{Check: "overlay", Cache: cache, Setup: on}.in(t).
		want(t, Failure, "the cache directory is on a file system (overlay)", "BAKE_CACHE_DIR to a directory on ext4")
	on = strings.NewReplacer("DIR", dir).Replace("mount -t ramfs none DIR/merged\nmkdir DIR/merged/cache")
	place{Check: "overlay", Cache: cache, Setup: on}.in(t).
		want(t, Failure, "layers cannot be mounted on ramfs: ", "BAKE_CACHE_DIR")
	place{Check: "overlay", Cache: cache, Setup: on, Dirs: []string{t.TempDir()}}.in(t).
		want(t, Warning, "the cache directory is on ramfs, which cannot hold layers", "BAKE_CACHE_DIR")
}

func TestNetworkOfSteps(t *testing.T) {
	place{Check: "network of steps"}.in(t).want(t, OK, "a network of their own", "")
	attr, _ := ordinary(t)
	place{Check: "network of steps", Enter: true, attr: attr, Cache: owned(t, attr)}.in(t).
		want(t, OK, "a network of their own", "")
	place{Check: "network of steps", Packets: true}.in(t).want(t, Failure, "open a packet socket", "--privileged")
	place{Check: "network of steps", Denied: "unshare"}.in(t).
		want(t, Failure, "create a network namespace", "--privileged")
}

// nameServer serves DNS on this machine's loopback: it answers with a code, or not at all if the code is negative. The
// network of the result sends the queries of steps to it.
func nameServer(t *testing.T, code int) *network.Network {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		p := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(p)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(p[:n]) != nil || code < 0 {
				continue
			}
			m.Response, m.RCode = true, dnsmessage.RCode(code)
			if raw, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(raw, from)
			}
		}
	}()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 203.0.113.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return &network.Network{
		ResolvConf: conf, Own: func() ([]netip.Addr, error) { return nil, nil },
		Dial: func(ctx context.Context, kind, address string) (net.Conn, error) {
			if address != "203.0.113.53:53" {
				return nil, errors.New("unexpected address " + address)
			}
			var d net.Dialer
			return d.DialContext(ctx, kind, conn.LocalAddr().String())
		},
	}
}

// TestNameServers asks real servers over the network of a step.
func TestNameServers(t *testing.T) {
	if os.Geteuid() != 0 {
		lack(t, "creates network namespaces; run as root")
	}
	for _, test := range []struct {
		code        int
		status      Status
		detail, fix string
	}{
		{int(dnsmessage.RCodeSuccess), OK, "203.0.113.53 answers steps", ""},
		{int(dnsmessage.RCodeNameError), OK, "203.0.113.53 answers steps", ""},
		{int(dnsmessage.RCodeServerFailure), Warning, "cannot look up example.com: SERVFAIL", "/etc/resolv.conf"},
		{int(dnsmessage.RCodeRefused), Warning, "cannot look up example.com: REFUSED", "/etc/resolv.conf"},
		{-1, Failure, "none of 203.0.113.53 answers a step", "/etc/resolv.conf"},
	} {
		s := &steps{network: nameServer(t, test.code), name: "example.com"}
		start := time.Now()
		found(t, s.names()).want(t, test.status, test.detail, test.fix)
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("code %d: took %s", test.code, took)
		}
	}
	found(t, (&steps{}).names()).want(t, Skipped, "--offline is set", "")
}
