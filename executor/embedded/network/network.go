// Package network connects the network namespace of a step to the outside: a virtual cable leads from the step to a
// network stack in this process, which opens a connection of the host's own for each one of the step's. Nothing has to be
// installed or allowed for it, as root or not, and a step gets no further than an ordinary client of the host would: the
// host itself, its loopback and the link-local services of clouds refuse it.
package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
)

// Network connects steps.
type Network struct {
	// Dial opens the connections of steps, as net.Dialer.DialContext does. Nil: with the host's network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ResolvConf is the file that names the host's name servers, which steps' questions go to. Empty: /etc/resolv.conf.
	ResolvConf string
	// Own says which addresses are the host's. Nil: those of its interfaces.
	Own func() ([]netip.Addr, error)
}

// Nameserver is the address at which a step finds a name server: it is asked the way the host would ask.
func Nameserver() netip.Addr { return gateway() }

// The cable has two ends. The range is kept for such links (RFC 7335), so that it hides no network which the host may reach.
func gateway() netip.Addr       { return netip.AddrFrom4([4]byte{192, 0, 0, 1}) }
func stepAddress() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 0, 2}), 29) }

// Attach connects the network namespace of a process, whose only interface is its loopback until then. Closing what it
// gives ends all connections. A stack is made when the step sends its first packet; until then the cable costs nothing.
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

// dial opens a connection of the host's for a step.
func (n *Network) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if err := n.allowed(to.Addr()); err != nil {
		return nil, err
	}
	return n.dialHost(ctx, network, to)
}

func (n *Network) dialHost(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if n.Dial != nil {
		return n.Dial(ctx, network, to.String())
	}
	var d net.Dialer
	return d.DialContext(ctx, network, to.String())
}

// allowed refuses the addresses that a step may not reach: this host's, by whatever name, and those that mean no single
// other host. It is asked when a connection is made, with the address that it is made to.
func (n *Network) allowed(a netip.Addr) error {
	a = a.Unmap()
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.Is4() && a.As4()[0] == 0:
		return fmt.Errorf("%s is this host itself", a)
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("%s is a service of this host's link", a)
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is not a single host", a)
	case stepAddress().Masked().Contains(a):
		return fmt.Errorf("%s is the step's own link", a)
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

// interfaceAddrs lists the addresses of the host's interfaces.
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
