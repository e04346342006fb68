// Package network connects the network namespace of a step to the outside. It needs nothing installed, and works for
// unprivileged users.
//
// The problem: a step has its own network namespace with only a loopback device. It must reach the internet, but not
// the services of the host (its loopback, its own addresses, the link-local metadata services of clouds), which trust
// local clients. Bridges and NAT need root and change the host's firewall.
//
// The idea: a veth pair leads from the step's namespace to a network stack in this process (gVisor's). The stack
// accepts packets to all addresses. For each connection of the step, this process opens one of its own and copies
// bytes.
//
// The invariants: allowed checks the address that is dialed, at the time of the dial, so that no name gets around the
// check. A step's connection is accepted only after the host's connection is established, so that a step sees
// "connection refused" and not a connection that ends at once. What a step can occupy is limited by maxDials, maxUDP
// and maxQueries. Closing the link ends all its goroutines and connections. TestHostIsRefused shows the addresses,
// TestTransfers a refused connection and 300 connections at once, TestUnplug the end of the link.
//
// The cost: one copy in user space. A step that sends no packet pays for the veth pair only, because the stack is
// created at the first packet.
package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
)

// Network connects steps. It implements sandbox.Outside. The zero value uses the host's network.
type Network struct {
	// Dial opens the host's connections, like net.Dialer.DialContext. If nil, a net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ResolvConf is the file that lists the name servers for steps. If empty, it is /etc/resolv.conf.
	ResolvConf string
	// Own returns the host's own addresses. If nil, they are those of its interfaces.
	Own func() ([]netip.Addr, error)
}

// Nameserver returns the address of the name server of steps. It forwards queries to the host's name servers.
func Nameserver() netip.Addr { return gateway() }

// gateway returns the address of this process's end of the link. The range is reserved for such links (RFC 7335), so
// that it hides no network that the host can reach.
func gateway() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 0, 1}) }

// stepAddress returns the address of the step's end of the link.
func stepAddress() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 0, 2}), 29) }

// Attach connects the network namespace of a process, which must have only a loopback device. Closing the result ends
// all connections.
func (n *Network) Attach(pid int) (io.Closer, error) {
	target, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("find the step's network: %w", err)
	}
	defer target.Close()
	w, err := plug(target)
	if err != nil {
		return nil, fmt.Errorf("connect the step's network: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{net: n, wire: w, ctx: ctx, cancel: cancel, done: make(chan struct{})}
	go l.run()
	return l, nil
}

// dial opens a connection for a step, if allowed permits the address.
func (n *Network) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if err := n.allowed(to.Addr()); err != nil {
		return nil, err
	}
	return n.dialHost(ctx, network, to)
}

// dialHost opens a connection of the host. It does not check the address.
func (n *Network) dialHost(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if n.Dial != nil {
		return n.Dial(ctx, network, to.String())
	}
	var d net.Dialer
	return d.DialContext(ctx, network, to.String())
}

// allowed returns an error for an address that a step must not reach: an address of this host, or one that is not a
// single other host. It must be called with the address that is dialed, right before the dial.
func (n *Network) allowed(a netip.Addr) error {
	a = a.Unmap()
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.Is4() && a.As4()[0] == 0:
		return fmt.Errorf("%s is this host itself", a)
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("%s is a link-local address", a)
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is not a single host", a)
	case stepAddress().Masked().Contains(a):
		return fmt.Errorf("%s is an address of the step's own link", a)
	}
	own := n.Own
	if own == nil {
		own = interfaceAddrs
	}
	addrs, err := own()
	if err != nil {
		return fmt.Errorf("list this host's addresses: %w", err)
	}
	for _, o := range addrs {
		if o.Unmap() == a {
			return fmt.Errorf("%s is an address of this host", a)
		}
	}
	return nil
}

// interfaceAddrs returns the addresses of the host's interfaces.
func interfaceAddrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var list []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, p.Addr())
		}
	}
	return list, nil
}
