package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestIsLocal lists the addresses that count as this machine, in all the ways in which an address contains another one.
func TestIsLocal(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
	for _, local := range []string{
		"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.0.0.1", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1",
		"239.1.2.3", "255.255.255.255", "192.0.2.7", "::1", "::", "fe80::1", "fe80::1%eth0", "ff02::1", "2001:db8::7",
		"fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16",
		"::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:169.254.169.254", "::ffff:192.0.2.7", "::127.0.0.1",
		"::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::192.0.2.7", "64:ff9b:1::169.254.169.254",
		"64:ff9b:1:ffff::127.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:c000:207::",
		"2001:0:102:304::80ff:fffe", "2001:0:7f00:1::1", "2001:db8:1::5efe:127.0.0.1", "2001:db8:1::200:5efe:127.0.0.1",
	} {
		if !isLocal(netip.MustParseAddr(local), own) {
			t.Errorf("%s is not local", local)
		}
	}
	for _, other := range []string{
		"10.0.0.1", "172.17.0.2", "192.168.1.1", "192.0.2.8", "8.8.8.8", "100.64.0.1", "2001:db8::8", "fd00::1",
		"64:ff9b::8.8.8.8", "2002:808:808::1", "::ffff:8.8.8.8", "2606:4700::1111",
	} {
		if isLocal(netip.MustParseAddr(other), own) {
			t.Errorf("%s is local", other)
		}
	}
}

// victim is a server that must not be reached.
type victim struct {
	port  string
	count atomic.Int32
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	l, err := net.Listen("tcp", ":0") // on all addresses
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	v := &victim{}
	_, v.port, _ = net.SplitHostPort(l.Addr().String())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			v.count.Add(1)
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = c.Read(make([]byte, 1<<10)) // a response before the request is an error of the client
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")
			_ = c.Close()
		}
	}()
	return v
}

// untouched checks that err is a refusal and that nothing connected.
func (v *victim) untouched(t *testing.T, what string, err error) {
	t.Helper()
	var local *LocalError
	if !errors.As(err, &local) || !strings.Contains(err.Error(), "--allow network.local") {
		t.Errorf("%s: err = %v", what, err)
	}
	if n := v.count.Swap(0); n > 0 {
		t.Errorf("%s: %d connections", what, n)
	}
}

func get(g *Guard, at string) error {
	res, err := (&http.Client{Transport: g}).Get(at)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.ReadAll(res.Body)
	return err
}

func noEnv(string) string { return "" }

// TestGuard shows that no name and no address of this machine is dialled, except those of a trusted URL.
func TestGuard(t *testing.T) {
	v := newVictim(t)
	hosts := []string{"127.0.0.1", "127.8.8.8", "localhost", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]",
		"[::ffff:0.0.0.0]"}
	own, err := ownAddresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if a.Is4() {
			hosts = append(hosts, a.String())
		}
	}
	g := New(noEnv)
	defer g.Close()
	for _, host := range hosts {
		v.untouched(t, host, get(g, "http://"+host+":"+v.port))
		v.untouched(t, "https "+host, get(g, "https://"+host+":"+v.port))
	}
	g.Trust("http://127.0.0.1:" + v.port + "/repo.git")
	if err := get(g, "http://127.0.0.1:"+v.port); err != nil {
		t.Error("a trusted address is refused:", err)
	}
	v.count.Store(0)
	other := newVictim(t)
	other.untouched(t, "another port of a trusted host", get(g, "http://127.0.0.1:"+other.port))
	v.untouched(t, "another address with a trusted port", get(g, "http://127.0.0.2:"+v.port))

	moved := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://localhost:"+other.port, http.StatusFound)
	}))
	defer moved.Close()
	g.Trust(moved.URL)
	other.untouched(t, "redirect", get(g, moved.URL))
}

// fakeDNS is a name server: it answers each request for an A record with the next address of the name.
type fakeDNS struct {
	addr string
	mu   sync.Mutex
	next map[string][]string
}

func newFakeDNS(t *testing.T, names map[string][]string) *net.Resolver {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	d := &fakeDNS{addr: c.LocalAddr().String(), next: names}
	go func() {
		raw := make([]byte, 1<<12)
		for {
			n, from, err := c.ReadFrom(raw)
			if err != nil {
				return
			}
			if out := d.answer(raw[:n]); out != nil {
				_, _ = c.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", d.addr)
	}}
}

func (d *fakeDNS) answer(raw []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(raw) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	d.mu.Lock()
	defer d.mu.Unlock()
	all, known := d.next[strings.TrimSuffix(q.Name.String(), ".")]
	switch {
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(all[0]).As4()},
		}}
		if len(all) > 1 {
			d.next[strings.TrimSuffix(q.Name.String(), ".")] = all[1:]
		}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// TestProxies shows which addresses a proxy of the user gets: on this machine only addresses that were checked,
// elsewhere no name of this machine.
func TestProxies(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method+" "+r.RequestURI)
		w.WriteHeader(http.StatusTeapot)
	}))
	defer proxy.Close()
	v := newVictim(t)
	for _, c := range []struct {
		name, url string
		elsewhere bool
		trust     string
		want      string // the address that the proxy gets; "" refuses
	}{
		{"address", "https://127.0.0.2:443/", false, "", ""},
		{"name", "http://local.example.com/", false, "", ""},
		{"mapped", "http://[::ffff:169.254.169.254]/", false, "", ""},
		{"unknown name", "https://unknown.example.com/", false, "", ""},
		{"unknown name of the user", "https://unknown.example.com/", false, "https://unknown.example.com/x.git",
			"CONNECT unknown.example.com:443"},
		{"unknown name of the user, another port", "https://unknown.example.com:8443/", false,
			"https://unknown.example.com/x.git", ""},
		{"public, https", "https://public.example.com/", false, "", "CONNECT 192.0.2.9:443"},
		{"public, http", "http://public.example.com/", false, "", "CONNECT 192.0.2.9:80"},
		{"rebinding", "https://rebind.example.com/", false, "", "CONNECT 192.0.2.1:443"},
		{"elsewhere: public, http", "http://public.example.com/x", true, "", "GET http://public.example.com/x"},
		{"elsewhere: public, https", "https://public.example.com/x", true, "", "CONNECT public.example.com:443"},
		{"elsewhere: unknown", "https://unknown.example.com/x", true, "", "CONNECT unknown.example.com:443"},
		{"elsewhere: local, http", "http://local.example.com/x", true, "", ""},
		{"elsewhere: local, https", "https://local.example.com/x", true, "", ""},
	} {
		g := New(func(name string) string {
			if name == "http_proxy" || name == "https_proxy" {
				return proxy.URL
			}
			return ""
		})
		g.resolver = newFakeDNS(t, map[string][]string{"local.example.com": {"127.0.0.1"},
			"public.example.com": {"192.0.2.9"}, "rebind.example.com": {"192.0.2.1", "127.0.0.1"}})
		if c.elsewhere {
			g.here = func(context.Context, *url.URL) bool { return false }
		}
		if c.trust != "" {
			g.Trust(c.trust)
		}
		asked = nil
		err := get(g, c.url)
		if c.want == "" {
			v.untouched(t, c.name, err)
		}
		if got := strings.Join(asked, ", "); got != c.want {
			t.Errorf("%s: the proxy got %q, want %q (%v)", c.name, got, c.want, err)
		}
		g.Close()
	}
}

// TestRoutedToItself shows that an address that the kernel routes to this machine is refused, although no interface has
// it. It runs in a network namespace of its own.
func TestRoutedToItself(t *testing.T) {
	const inside = "BAKE_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("unshare", "-rn", "sh", "-c",
			"ip link set lo up && ip route add local 198.51.100.0/24 dev lo && "+
				"exec "+os.Args[0]+" -test.run='^TestRoutedToItself$' -test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil && (strings.Contains(string(out), "unshare: ") || strings.Contains(string(out), "not found")) {
			if os.Getenv("CI") == "true" {
				t.Fatalf("no network namespace: %s", out)
			}
			t.Skipf("no network namespace: %s", out)
		}
		if err != nil || !strings.Contains(string(out), "--- PASS: TestRoutedToItself") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	v := newVictim(t)
	if c, err := net.Dial("tcp", "198.51.100.7:"+v.port); err != nil {
		t.Fatal("the address does not lead here:", err)
	} else {
		c.Close()
	}
	g := New(noEnv)
	defer g.Close()
	c, err := g.Connect(t.Context(), "", "198.51.100.7:"+v.port)
	var local *LocalError
	if !errors.As(err, &local) {
		t.Errorf("connected: %v, %v", c, err)
	}
}

// TestHostOf lists the URLs that git and HTTP accept.
func TestHostOf(t *testing.T) {
	for at, want := range map[string]string{
		"https://example.com/x.git": "example.com 443", "http://example.com/x": "example.com 80",
		"http://example.com:8080/x": "example.com 8080", "https://user:pw@example.com/x": "example.com 443",
		"ssh://git@example.com/x": "example.com 22", "ssh://git@example.com:2222/x": "example.com 2222",
		"git@example.com:team/x.git#main": "example.com 22", "git://example.com/x": "example.com 9418",
		"github.com/a/b#main:sub": "github.com 443", "http://[::1]:80/x": "::1 80",
	} {
		host, port := hostOf(at)
		if got := fmt.Sprint(host, " ", port); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
}
