package embedded

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/bakebuild/bake/executor/embedded/network"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/seccomp"
)

// TestNetworkOfAStep reaches a server outside of the host, and neither one on the host nor, with --network=none, any.
func TestNetworkOfAStep(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	here := l.Addr().String()
	s := newBox(t, map[string]string{"Dockerfile": tools +
		"RUN [\"/step\", \"listen\", \"203.0.113.1:7\", \"/got\"]\n" +
		"RUN [\"/step\", \"alone\", \"" + here + "\"]\n" +
		"RUN --network=none [\"/step\", \"alone\", \"203.0.113.1:7\", \";\", \"facts\", \"/facts\"]\n"})
	outside := &network.Network{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		if address == "203.0.113.1:7" {
			address = here
		}
		return d.DialContext(ctx, network, address)
	}}
	s.runner.next = &sandbox.Sandbox{Filters: seccomp.Filters, Outside: outside}
	s.must("/step listen 203.0.113.1:7 /got", "/step alone "+here, "/step alone 203.0.113.1:7 ; facts /facts")
	if got := s.file("api", "/got"); got != "hello" {
		t.Errorf("got %q", got)
	}
}
