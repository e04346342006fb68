package dial

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestRebinding shows that a name that resolves to another address each time is judged by the address that is dialled,
// also the name of a host that the user typed, in whatever order the addresses come.
func TestRebinding(t *testing.T) {
	const evil = "evil.example.com"
	for name, c := range map[string]struct {
		answers []string
		gets    int // requests for the name before that for the address of this machine
	}{
		"first elsewhere":            {[]string{"192.0.2.1", "127.0.0.1"}, 0},
		"first here, never used":     {[]string{"127.0.0.1", "192.0.2.1"}, 0},
		"first here, then elsewhere": {[]string{"127.0.0.1", "127.0.0.1", "192.0.2.1"}, 0},
		"here after the definition":  {[]string{"192.0.2.1", "127.0.0.1"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVictim(t)
			g := New(noEnv)
			defer g.Close()
			g.resolver = newFakeDNS(t, map[string][]string{evil: c.answers, "direct.example.com": {"127.0.0.1"}})
			at := "http://" + evil + ":" + v.port
			g.Trust(at)
			if _, err := g.addresses(t.Context(), evil); err != nil { // as before a fetch
				t.Fatal(err)
			}
			for range c.gets { // 192.0.2.1 is nowhere, so the connection that served the definition is recorded
				elsewhere := netip.MustParseAddrPort("192.0.2.1:" + v.port)
				if err := g.connected(evil+":"+v.port, elsewhere, false); err != nil {
					t.Fatal(err)
				}
			}
			g.Settle(at)
			v.untouched(t, "the address", get(g, "http://127.0.0.1:"+v.port))
			v.untouched(t, "a name of this machine", get(g, "http://direct.example.com:"+v.port))
			g.resolver = newFakeDNS(t, map[string][]string{evil: {"127.0.0.1"}})
			v.untouched(t, "the name", get(g, at))
		})
	}
}

// TestTypedNames shows what a name of the command line that leads to this machine permits: its address, from the first
// connection on, and no other address for the name.
func TestTypedNames(t *testing.T) {
	v, other := newVictim(t), newVictim(t)
	g := New(noEnv)
	defer g.Close()
	g.resolver = newFakeDNS(t, map[string][]string{"git.example.com": {"127.0.0.1", "127.0.0.3"}})
	at := "http://git.example.com:" + v.port + "/x.git"
	v.untouched(t, "before", get(g, at))
	g.resolver = newFakeDNS(t, map[string][]string{"git.example.com": {"127.0.0.1", "127.0.0.3"}})
	g.Trust(strings.Replace(at, "git", "Git", 1))
	v.untouched(t, "the address before the name", get(g, "http://127.0.0.1:"+v.port))
	for range 3 { // the name system changes its mind after the first
		if err := get(g, at); err != nil {
			t.Fatal(err)
		}
		g.Settle(at)
	}
	if err := get(g, "http://127.0.0.1:"+v.port); err != nil {
		t.Error("the address of the definition is refused:", err)
	}
	v.count.Store(0)
	v.untouched(t, "another address of the name", get(g, "http://127.0.0.3:"+v.port))
	other.untouched(t, "another port of the name", get(g, "http://git.example.com:"+other.port))

	g.Trust("http://localhost:" + other.port)
	for _, host := range []string{"localhost", "127.0.0.1"} {
		if err := get(g, "http://"+host+":"+other.port); err != nil {
			t.Error("localhost is refused:", err)
		}
	}
}

// TestTypedNameAtOnce: connections that begin together and lead to different places are not all used.
func TestTypedNameAtOnce(t *testing.T) {
	here, elsewhere := netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("192.0.2.1:80")
	g := New(noEnv)
	defer g.Close()
	g.Trust("http://evil.example.com")
	if err := g.connected("evil.example.com:80", here, true); err != nil {
		t.Error("the first connection is refused:", err)
	}
	if err := g.connected("evil.example.com:80", elsewhere, false); err == nil {
		t.Error("a connection elsewhere is used, although the address of this machine is exempt")
	}
	g.Trust("http://other.example.com")
	if err := g.connected("other.example.com:80", elsewhere, false); err != nil {
		t.Error(err)
	}
	if err := g.connected("other.example.com:80", netip.MustParseAddrPort("127.0.0.2:80"), true); err == nil {
		t.Error("a second connection leads to this machine")
	}
}

// TestTypedNameByProxy: a proxy that got a typed name gets it again, and no other way to this machine opens.
func TestTypedNameByProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "ok")
	}))
	defer proxy.Close()
	v := newVictim(t)
	env := proxy.URL
	g := New(func(name string) string {
		if name == "http_proxy" {
			return env
		}
		return ""
	})
	defer g.Close()
	g.here = func(context.Context, *url.URL) bool { return false }
	g.resolver = newFakeDNS(t, map[string][]string{"git.example.com": {"127.0.0.1"}})
	at := "http://git.example.com:" + v.port
	g.Trust(at)
	for range 2 {
		if err := get(g, at); err != nil {
			t.Error(err)
		}
		g.Settle(at)
	}
	v.untouched(t, "without the proxy", get(g, "https://git.example.com:"+v.port))
	g.here = func(context.Context, *url.URL) bool { return true }
	v.untouched(t, "by a proxy of this machine", get(g, at))
}

// TestUnusedTypedName: a URL that is fetched later opens no way to this machine before.
func TestUnusedTypedName(t *testing.T) {
	v := newVictim(t)
	at := "http://context.example.com:" + v.port
	for first, fetch := range map[string]bool{"127.0.0.1": true, "192.0.2.1": false, "": false} {
		g := New(noEnv)
		names := map[string][]string{}
		if first != "" {
			names["context.example.com"] = []string{first}
		}
		g.resolver = newFakeDNS(t, names)
		g.Trust(at)
		if got := g.SettleUnused(t.Context(), at); got != fetch {
			t.Errorf("at %q: fetched now: %t", first, got)
		}
		g.resolver = newFakeDNS(t, map[string][]string{"context.example.com": {"127.0.0.1"}})
		if fetch {
			if err := get(g, at); err != nil {
				t.Error(err)
			}
			v.count.Store(0)
		} else {
			v.untouched(t, "at "+first, get(g, at))
		}
		g.Close()
	}
}

// slowProxy is a proxy that accepts connections and never answers.
func slowProxy(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return l.Addr().String()
}

// TestSilentProxy: no step of a connection through a proxy waits longer than the context lets it.
func TestSilentProxy(t *testing.T) {
	addr := slowProxy(t)
	for _, scheme := range []string{"http", "https", "socks5", "socks5h"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		begun := time.Now()
		c, err := openProxy(ctx, &url.URL{Scheme: scheme, Host: addr}, "192.0.2.1:443")
		cancel()
		if err == nil || time.Since(begun) > 20*time.Second {
			t.Errorf("%s: %v, %v after %v", scheme, c, err, time.Since(begun))
		}
		if _, err = viaProxy(ctx, &url.URL{Scheme: scheme, Host: addr}, "192.0.2.1:443"); err == nil {
			t.Errorf("%s: connected with a context that has ended", scheme)
		}
	}
}

// TestHalfClose: a program that has sent its request ends its side, and still gets the response, also through a proxy
// of the user.
func TestHalfClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // a proxy whose target answers when the request has ended
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		sent, _ := io.ReadAll(r)
		time.Sleep(50 * time.Millisecond)
		_, _ = io.WriteString(c, "got "+string(sent))
	}()
	out, err := viaProxy(t.Context(), &url.URL{Scheme: "http", Host: l.Addr().String()}, "192.0.2.1:443")
	if err != nil {
		t.Fatal(err)
	}
	program, in := tcpPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		pipe(in, in, out)
	}()
	_, _ = io.WriteString(program, "request")
	_ = program.CloseWrite()
	if got, err := io.ReadAll(program); string(got) != "got request" {
		t.Errorf("the response is %q, %v", got, err)
	}
	_ = errors.Join(in.Close(), out.Close())
	<-done
}

// tcpPair returns both ends of a connection.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	one, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	two, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { one.Close(); two.Close() })
	return one.(*net.TCPConn), two.(*net.TCPConn)
}

// TestViaSOCKS: a connection through a SOCKS proxy can be half closed too.
func TestViaSOCKS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 64)
		if _, err := io.ReadFull(c, buf[:3]); err != nil { // version, one method
			return
		}
		_, _ = c.Write([]byte{5, 0})
		if _, err := io.ReadFull(c, buf[:10]); err != nil { // connect to an IPv4 address
			return
		}
		_, _ = c.Write([]byte{5, 0, 0, 1, 192, 0, 2, 1, 1, 187})
		sent, _ := io.ReadAll(c)
		_, _ = io.WriteString(c, strings.ToUpper(string(sent)))
	}()
	c, err := viaProxy(t.Context(), &url.URL{Scheme: "socks5", Host: l.Addr().String()}, "192.0.2.1:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		t.Fatalf("%T cannot be half closed", c)
	}
	if _, err := io.WriteString(c, "request"); err != nil || half.CloseWrite() != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); string(got) != "REQUEST" {
		t.Errorf("the response is %q, %v", got, err)
	}
}
