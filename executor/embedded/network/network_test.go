package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv("NETWORK_TEST_STEP"); ok {
		os.Exit(beStep(strings.Fields(args)))
	}
	os.Exit(m.Run())
}

// outside is what steps reach: a few servers on this machine's loopback, by names and addresses that are not theirs.
type outside struct {
	network *Network
	routes  map[string]string // "tcp 203.0.113.1:80" to an address of this machine
	mu      sync.Mutex
	dialed  []string
}

func newOutside(t *testing.T) *outside {
	o := &outside{routes: map[string]string{}}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 203.0.113.53\nnameserver 127.0.0.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o.network = &Network{ResolvConf: conf, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		o.mu.Lock()
		o.dialed = append(o.dialed, network+" "+address)
		to, ok := o.routes[network+" "+address]
		o.mu.Unlock()
		if !ok {
			return nil, errors.New("no such server")
		}
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	}}
	return o
}

// step runs this program as a step that is connected, and gives what it said.
func (o *outside) step(t *testing.T, args ...string) string {
	t.Helper()
	out, _ := o.start(t, args...)
	return out()
}

// start starts a step; the first function waits for its end and gives what it said, the second unplugs it.
func (o *outside) start(t *testing.T, args ...string) (func() string, func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	// Under go test -cover a child that has no directory for its counters complains on stderr.
	cmd.Env = []string{"NETWORK_TEST_STEP=" + strings.Join(args, " "), "GOCOVERDIR=" + t.TempDir()}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		lack(t, "network namespaces cannot be made here; run as root")
	} else if err != nil {
		t.Fatal(err)
	}
	end, err := o.network.Attach(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatal(err)
	}
	if _, err := stdin.Write([]byte{'\n'}); err != nil {
		t.Fatal(err)
	}
	unplug := sync.OnceFunc(func() {
		if err := end.Close(); err != nil {
			t.Error(err)
		}
	})
	return func() string {
		t.Helper()
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, &out)
		}
		unplug()
		return out.String()
	}, unplug
}

func lack(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// beStep is what the step does: it waits until it is connected, then each of its arguments.
func beStep(args []string) int {
	_, _ = os.Stdin.Read(make([]byte, 1))
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, netip.AddrPortFrom(Nameserver(), 53).String())
	}}
	client := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Resolver: resolver}).DialContext}}
	for _, a := range args {
		what, rest, _ := strings.Cut(a, "=")
		text, err := act(client, resolver, what, rest)
		if err != nil {
			text = "error: " + err.Error()
		}
		fmt.Println(what, text)
	}
	return 0
}

func act(client *http.Client, resolver *net.Resolver, what, arg string) (string, error) {
	switch what {
	case "get":
		r, err := client.Get(arg)
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		return fmt.Sprint(n, " ", hex.EncodeToString(sum.Sum(nil))[:12]), err
	case "put":
		r, err := client.Post(arg, "x/y", &pattern{left: 64 << 20})
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		return string(text), err
	case "many":
		var all sync.WaitGroup
		failed := make(chan error, 300)
		for range 300 {
			all.Go(func() {
				if _, err := act(client, resolver, "get", arg); err != nil {
					failed <- err
				}
			})
		}
		all.Wait()
		return fmt.Sprint(len(failed), " failed"), nil
	case "resolve":
		addrs, err := resolver.LookupHost(context.Background(), arg)
		return fmt.Sprint(addrs), err
	case "connect":
		c, err := net.Dial("tcp", arg)
		if err == nil {
			err = c.Close()
		}
		return "ok", err
	case "half": // says all it has, then listens
		c, err := net.Dial("tcp", arg)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, err := io.WriteString(c, "hello"); err != nil {
			return "", err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return "", err
		}
		text, err := io.ReadAll(c)
		return string(text), err
	case "hang": // until the connection ends
		c, err := net.Dial("tcp", arg)
		if err != nil {
			return "", err
		}
		defer c.Close()
		fmt.Fprintln(c, "here")
		_, err = io.Copy(io.Discard, os.Stdin)
		return "", err
	case "udp":
		c, err := net.Dial("udp", arg)
		if err != nil {
			return "", err
		}
		defer c.Close()
		size := 40000
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(make([]byte, size)); err != nil {
			return "", err
		}
		n, err := c.Read(make([]byte, 1<<16))
		return strconv.Itoa(n), err
	}
	return "", errors.New("unknown action")
}

// pattern is so many bytes.
type pattern struct{ left, at int }

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), p.left)
	for i := range b[:n] {
		b[i] = byte((p.at + i) * 7 >> 3)
	}
	p.left, p.at = p.left-n, p.at+n
	return n, nil
}

func sumOf(r io.Reader) string {
	sum := sha256.New()
	n, _ := io.Copy(sum, r)
	return fmt.Sprint(n, " ", hex.EncodeToString(sum.Sum(nil))[:12])
}

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
	out := o.step(t, "get=http://203.0.113.1/big", "put=http://203.0.113.1/put", "many=http://203.0.113.1/", "connect=203.0.113.2:80")
	want := "get " + sumOf(&pattern{left: 64 << 20}) + "\nput " + sumOf(&pattern{left: 64 << 20}) + "\nmany 0 failed\n" +
		"connect error: dial tcp 203.0.113.2:80: connect: connection refused\n"
	if out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}

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

// serve serves TCP connections on this machine.
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

func TestUDP(t *testing.T) {
	o := newOutside(t)
	o.routes["udp 203.0.113.1:9"] = answer(t, func(p []byte) []byte { return p[:len(p)-1] })
	if out := o.step(t, "udp=203.0.113.1:9"); out != "udp 39999\n" {
		t.Error(out)
	}
}

// answer answers UDP packets on this machine.
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

// TestNames asks the second of the host's name servers, because the first does not answer; the second stands on the
// host's loopback.
func TestNames(t *testing.T) {
	o := newOutside(t)
	o.routes["udp 127.0.0.53:53"] = answer(t, func(q []byte) []byte {
		// The question, answered with one address: a header with the flags of an answer, and a record.
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

// questionEnd is where the first question of a message ends.
func questionEnd(q []byte) int {
	at := 12
	for q[at] != 0 {
		at += int(q[at]) + 1
	}
	return at + 5
}

func TestHostIsRefused(t *testing.T) {
	o := newOutside(t)
	own, err := interfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	list := []string{"169.254.169.254:80", "0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80", "192.0.0.1:80", "192.0.0.3:80"}
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
	for _, a := range list[4:] { // those that a program can ask for
		if out := o.step(t, "connect="+a); !strings.Contains(out, "error") {
			t.Errorf("%s: %s", a, out)
		}
	}
	if len(o.dialed) > 0 {
		t.Errorf("dialed %v", o.dialed)
	}
}

// TestUnplug ends a step's connections with the link.
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
		t.Error("the connection is still there")
	}
	wait()
}

// TestSilentStep has no stack.
func TestSilentStep(t *testing.T) {
	o := newOutside(t)
	if out := o.step(t); out != "" {
		t.Error(out)
	}
}

// BenchmarkPlug is what a network costs a step that does not use it, with the namespace that it would have anyway.
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
		b.StopTimer() // taking it down is waited for by nobody
		if err := errors.Join(w.file.Close(), target.Close()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

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
