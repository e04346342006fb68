package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTransfers checks large transfers in both directions, more connections at once than maxDials, and a refused
// connection.
func TestTransfers(t *testing.T) {
	o := newOutside(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			_, _ = io.Copy(w, &pattern{left: 64 << 20})
		case "/put":
			_, _ = io.WriteString(w, sumOf(r.Body))
		}
	}))
	defer server.Close()
	o.routes["tcp 203.0.113.1:80"] = server.Listener.Addr().String()
	out := o.step(t, "get=http://203.0.113.1/big", "put=http://203.0.113.1/put", "many=http://203.0.113.1/",
		"connect=203.0.113.2:80")
	sum := sumOf(&pattern{left: 64 << 20})
	want := "get " + sum + "\nput " + sum + "\nmany 0 failed\n" +
		"connect error: dial tcp 203.0.113.2:80: connect: connection refused\n"
	if out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}

// TestHalfClosed checks that a server can answer after the step has closed its direction of the connection.
func TestHalfClosed(t *testing.T) {
	o := newOutside(t)
	o.routes["tcp 203.0.113.1:7"] = serve(t, func(c net.Conn) {
		text, _ := io.ReadAll(c)
		fmt.Fprintf(c, "got %s", text)
	})
	if out := o.step(t, "half=203.0.113.1:7"); out != "half got hello\n" {
		t.Error(out)
	}
}

// serve serves TCP connections on this machine and returns the address.
func serve(t *testing.T, each func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				each(c)
			}()
		}
	}()
	return l.Addr().String()
}

// TestUDP checks a large UDP packet and its answer.
func TestUDP(t *testing.T) {
	o := newOutside(t)
	o.routes["udp 203.0.113.1:9"] = answer(t, func(p []byte) []byte { return p[:len(p)-1] })
	if out := o.step(t, "udp=203.0.113.1:9"); out != "udp 39999\n" {
		t.Error(out)
	}
}

// answer answers UDP packets on this machine and returns the address.
func answer(t *testing.T, each func([]byte) []byte) string {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		p := make([]byte, 1<<16)
		for {
			n, from, err := l.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = l.WriteTo(each(p[:n]), from)
		}
	}()
	return l.LocalAddr().String()
}

// TestNames checks that the second of the host's name servers answers if the first one cannot be reached. The second
// one is on the host's loopback, which a step cannot reach itself.
func TestNames(t *testing.T) {
	o := newOutside(t)
	o.routes["udp 127.0.0.53:53"] = answer(t, func(q []byte) []byte {
		// The answer is the query with the flags of an answer, and one address record.
		a := append([]byte(nil), q...)
		a[2], a[3] = 0x81, 0x80
		if end := questionEnd(q); q[end-3] == 1 { // A
			a = append(a[:end:end], 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 9)
			a[7], a[11] = 1, 0
		}
		return a
	})
	if out := o.step(t, "resolve=example.test"); out != "resolve [203.0.113.9]\n" {
		t.Error(out)
	}
}

// questionEnd returns the index of the end of the first question of a DNS message.
func questionEnd(q []byte) int {
	at := 12
	for q[at] != 0 {
		at += int(q[at]) + 1
	}
	return at + 5
}

// TestHostIsRefused checks the addresses that a step cannot reach.
func TestHostIsRefused(t *testing.T) {
	o := newOutside(t)
	own, err := interfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	list := []string{
		"169.254.169.254:80", "0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80", "192.0.0.1:80", "192.0.0.3:80",
	}
	for _, a := range own {
		if a.Is4() && !a.IsLoopback() {
			list = append(list, netip.AddrPortFrom(a, 80).String())
		}
	}
	for _, a := range list {
		at := netip.MustParseAddrPort(a)
		if _, err := o.network.dial(t.Context(), "tcp", at); err == nil {
			t.Errorf("%s can be reached", a)
		}
	}
	for _, a := range []string{"[::1]:80", "[::ffff:127.0.0.1]:80", "[fe80::1]:80", "127.0.0.1:80", "127.9.9.9:80"} {
		if _, err := o.network.dial(t.Context(), "tcp", netip.MustParseAddrPort(a)); err == nil {
			t.Errorf("%s can be reached", a)
		}
	}
	for _, a := range list[4:] { // those that the step's kernel sends to the link
		if out := o.step(t, "connect="+a); !strings.Contains(out, "error") {
			t.Errorf("%s: %s", a, out)
		}
	}
	if len(o.dialed) > 0 {
		t.Errorf("dialed %v", o.dialed)
	}
}

// TestUnplug checks that closing the link ends the step's connections.
func TestUnplug(t *testing.T) {
	o := newOutside(t)
	here, gone := make(chan struct{}), make(chan error, 1)
	o.routes["tcp 203.0.113.1:7"] = serve(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 5))
		close(here)
		_, err := c.Read(make([]byte, 1))
		gone <- err
	})
	wait, unplug := o.start(t, "hang=203.0.113.1:7")
	<-here
	unplug()
	if err := <-gone; err == nil {
		t.Error("the connection is still open")
	}
	wait()
}

// TestSilentStep checks a step that sends no packet, for which no stack is created.
func TestSilentStep(t *testing.T) {
	o := newOutside(t)
	if out := o.step(t); out != "" {
		t.Error(out)
	}
}

// BenchmarkPlug measures the cost of a network that the step does not use, including the namespace, which each step
// has.
func BenchmarkPlug(b *testing.B) {
	for b.Loop() {
		target, err := newNamespace()
		if err != nil {
			b.Skip(err)
		}
		w, err := plug(target)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer() // a build does not wait for the close
		if err := errors.Join(w.file.Close(), target.Close()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// newNamespace returns a new network namespace.
func newNamespace() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			done <- result{nil, err}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		done <- result{file, err}
	}()
	r := <-done
	return r.file, r.err
}
