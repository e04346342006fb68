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
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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

// outside is a Network that dials servers on this machine's loopback instead of the addresses that the step requests.
type outside struct {
	network *Network
	routes  map[string]string // from a destination such as "tcp 203.0.113.1:80" to an address of this machine
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

// step runs this program as a connected step and returns its output.
func (o *outside) step(t *testing.T, args ...string) string {
	t.Helper()
	out, _ := o.start(t, args...)
	return out()
}

// start starts a step. The first function waits for its end and returns its output, the second closes its link.
func (o *outside) start(t *testing.T, args ...string) (func() string, func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	// Under go test -cover a process without a directory for its counters writes a warning to stderr.
	cmd.Env = []string{"NETWORK_TEST_STEP=" + strings.Join(args, " "), "GOCOVERDIR=" + t.TempDir()}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		lack(t, "cannot create network namespaces; run as root")
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

// lack skips the test because of a missing requirement. In CI it fails.
func lack(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// beStep is the main function of the step: it waits until it is connected, then executes its arguments.
func beStep(args []string) int {
	_, _ = os.Stdin.Read(make([]byte, 1))
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, netip.AddrPortFrom(Nameserver(), 53).String())
	}}
	client := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Resolver: resolver}).DialContext}}
	actions := map[string]func(arg string) (string, error){
		"get":  func(url string) (string, error) { return get(client, url) },
		"put":  func(url string) (string, error) { return put(client, url) },
		"many": func(url string) (string, error) { return getMany(client, url) },
		"resolve": func(name string) (string, error) {
			addrs, err := resolver.LookupHost(context.Background(), name)
			return fmt.Sprint(addrs), err
		},
		"connect": connect,
		"half":    halfClose,
		"hang":    hang,
		"udp":     sendUDP,
	}
	for _, a := range args {
		name, arg, _ := strings.Cut(a, "=")
		text, err := actions[name](arg)
		if err != nil {
			text = "error: " + err.Error()
		}
		fmt.Println(name, text)
	}
	return 0
}

func get(client *http.Client, url string) (string, error) {
	r, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	return fmt.Sprint(n, " ", hex.EncodeToString(sum.Sum(nil))[:12]), err
}

func put(client *http.Client, url string) (string, error) {
	r, err := client.Post(url, "x/y", &pattern{left: 64 << 20})
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return string(text), err
}

// getMany opens 300 connections at once.
func getMany(client *http.Client, url string) (string, error) {
	var all sync.WaitGroup
	failed := make(chan error, 300)
	for range 300 {
		all.Go(func() {
			if _, err := get(client, url); err != nil {
				failed <- err
			}
		})
	}
	all.Wait()
	return fmt.Sprint(len(failed), " failed"), nil
}

func connect(address string) (string, error) {
	c, err := net.Dial("tcp", address)
	if err == nil {
		err = c.Close()
	}
	return "ok", err
}

// halfClose sends all its data, closes its direction, and then reads the answer.
func halfClose(address string) (string, error) {
	c, err := net.Dial("tcp", address)
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
}

// hang keeps a connection open until the standard input ends.
func hang(address string) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	fmt.Fprintln(c, "here")
	_, err = io.Copy(io.Discard, os.Stdin)
	return "", err
}

func sendUDP(address string) (string, error) {
	c, err := net.Dial("udp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(make([]byte, 40000)); err != nil {
		return "", err
	}
	n, err := c.Read(make([]byte, 1<<16))
	return strconv.Itoa(n), err
}

// pattern is a reader of a fixed sequence of left bytes.
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
