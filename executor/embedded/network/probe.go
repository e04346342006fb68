package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// Trial is what Try found.
type Trial struct {
	Connect error // why a step cannot be connected, or nil
	Names   error // why the name servers do not answer, or nil
	// Answer is the code of the first answer, such as dnsmessage.RCodeSuccess. It is valid if Names is nil.
	Answer dnsmessage.RCode
	// Servers are the name servers of the host that steps use.
	Servers []netip.AddrPort
}

// Try connects a network namespace as that of a step and, unless name is empty, asks the name server of steps for the
// address of name from there. It uses a new thread that ends afterwards, because unshare changes the namespace of the
// thread.
func (n *Network) Try(ctx context.Context, name string) Trial {
	done := make(chan Trial, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		done <- n.tryHere(ctx, name)
	}()
	select {
	case t := <-done:
		return t
	case <-ctx.Done():
	}
	select {
	case t := <-done: // it stops asking when ctx ends
		return t
	case <-time.After(100 * time.Millisecond):
		return Trial{Connect: context.Cause(ctx)}
	}
}

// askTimeout is how long one answer may take, of askTries.
const (
	askTimeout = time.Second
	askTries   = 3
)

// tryHere does the work of Try and leaves the calling thread in another network namespace.
func (n *Network) tryHere(ctx context.Context, name string) Trial {
	t := Trial{Servers: n.servers()}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Connect = fmt.Errorf("create a network namespace: %w", err)
		return t
	}
	end, err := n.Attach(unix.Gettid())
	if err != nil {
		t.Connect = err
		return t
	}
	defer end.Close()
	if name != "" {
		t.Answer, t.Names = ask(ctx, name)
	}
	return t
}

// ask sends a query for the IPv4 address of a name over the step's network.
func ask(ctx context.Context, name string) (dnsmessage.RCode, error) {
	query, err := queryFor(name)
	if err != nil {
		return 0, err
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(Nameserver(), namePort)))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	answer := make([]byte, 1<<16)
	for range askTries {
		if err := conn.SetReadDeadline(time.Now().Add(askTimeout)); err != nil {
			return 0, err
		}
		if ctx.Err() != nil {
			break
		}
		if _, err := conn.Write(query); err != nil {
			return 0, err
		}
		size, err := conn.Read(answer)
		if err != nil {
			continue
		}
		var p dnsmessage.Parser
		header, err := p.Start(answer[:size])
		if err != nil {
			return 0, fmt.Errorf("read the answer of a name server: %w", err)
		}
		return header.RCode, nil
	}
	return 0, errors.New("no answer")
}

// queryFor returns a DNS query for the IPv4 address of a name.
func queryFor(name string) ([]byte, error) {
	full, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(unix.Getpid()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: full, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}
