// Package dial connects to hosts that a remote definition names. It refuses connections to this machine and its links,
// whatever name, redirect or proxy leads to them.
package dial

import (
	"fmt"
	"net"
	"net/netip"
)

// LocalError reports a connection that was refused because its address is on this machine or its link.
type LocalError struct {
	Addr string // HOST:PORT, as dialled
	Via  string // the proxy on this machine that would connect to it; "" for none
}

// Error returns the address, the reason, and what permits the connection.
func (e *LocalError) Error() string {
	what := "on this machine or its local link"
	if e.Via != "" {
		what = "reached through the proxy " + e.Via + " of this machine, and its name cannot be checked here"
	}
	return fmt.Sprintf("access denied to %s, which is %s: a remote definition may not connect to it; to permit it, "+
		"add --allow network.local", e.Addr, what)
}

// isLocal reports whether an address is on this machine or its link: loopback, link-local, unspecified, multicast,
// broadcast, one of own, or the address of a metadata service. IPv6 addresses that stand for an IPv4 address, which a
// gateway or tunnel translates, count as that address.
func isLocal(addr netip.Addr, own []netip.Addr) bool {
	for _, a := range meanings(addr) {
		switch {
		case !a.IsValid(), a.IsUnspecified(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsMulticast():
			return true
		case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), a.Is4() && a.As4()[0] == 0:
			return true
		}
		for _, o := range own {
			if a == o {
				return true
			}
		}
		for _, m := range metadataServices() {
			if a == m {
				return true
			}
		}
	}
	return false
}

// metadataServices returns the addresses at which clouds give virtual machines their credentials, except those that are
// link-local.
func metadataServices() []netip.Addr {
	return []netip.Addr{
		netip.MustParseAddr("fd00:ec2::254"),   // AWS
		netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
		netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
		netip.MustParseAddr("168.63.129.16"),   // Azure
		netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud, older
	}
}

// meanings returns an address without its zone and, if it is an IPv6 address that contains IPv4 addresses, those too.
func meanings(addr netip.Addr) []netip.Addr {
	addr = addr.Unmap().WithZone("")
	all := []netip.Addr{addr}
	if !addr.Is6() {
		return all
	}
	b := addr.As16()
	four := func(at int) { all = append(all, netip.AddrFrom4([4]byte(b[at:at+4]))) }
	in := func(prefix string) bool { return netip.MustParsePrefix(prefix).Contains(addr) }
	switch {
	case in("64:ff9b::/96"), in("64:ff9b:1::/48"): // NAT64
		four(12)
	case in("::/96"), in("::ffff:0:0:0/96"): // IPv4-compatible, IPv4-translated
		four(12)
	case in("2002::/16"): // 6to4
		four(2)
	case in("2001::/32"): // Teredo: the server, and the client with its bits inverted
		four(4)
		all = append(all, netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP
		four(12)
	}
	return all
}

// ownAddresses returns the addresses of this machine's interfaces.
func ownAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this machine: %w", err)
	}
	var own []netip.Addr
	for _, a := range all {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, prefix.Addr().Unmap().WithZone(""))
		}
	}
	return own, nil
}
