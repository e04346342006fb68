package dial

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// Hosts of the command line.
//
// The problem: the user may name a server of this machine, http://git.internal:3000/x.git, and its definition may use
// that server. But the author of a definition elsewhere may own the DNS of the name that the user typed. If the
// addresses that the name has before the fetch were exempt, the author would answer with an address of this machine
// first, serve the definition from an address elsewhere, and then name the address of this machine.
//
// The idea: an address that the user typed is exempt, and so is localhost. A name is exempt only if the first
// connection for it leads to this machine. From then on each connection for the name goes to that address, so the
// definition came from there. If the first connection leads elsewhere, or if the URL needed none because it was in the
// cache, the name is like any other.
//
// The invariant: no address of this machine is exempt because of a name unless every connection for the name went to
// that address. TestRebinding and TestTypedNames show it.

// typedHost is a host of the command line that is given by name. With the zero value, no connection was made.
type typedHost struct {
	addr  netip.AddrPort // the address of this machine to which the first connection led
	proxy string         // the proxy that was given the name by the first connection, or anyProxy
}

// anyProxy stands for all proxies of the user.
const anyProxy = "*"

func (t *typedHost) isNew() bool { return t != nil && !t.addr.IsValid() && t.proxy == "" }

// Trust exempts the host of a URL, with its port. Only URLs that the user typed may be trusted.
func (g *Guard) Trust(rawURL string) {
	host, port := hostOf(rawURL)
	if host == "" {
		return
	}
	literal := []string{host}
	if strings.EqualFold(host, "localhost") {
		literal = []string{"127.0.0.1", "::1"}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, text := range literal {
		a, err := netip.ParseAddrPort(net.JoinHostPort(text, port))
		if err != nil {
			g.typed[typedName(net.JoinHostPort(host, port))] = &typedHost{}
			return
		}
		g.trusted[netip.AddrPortFrom(a.Addr().Unmap(), a.Port())] = true
	}
}

// Settle ends the exemption of the host of a URL if no connection was made to it. It is called when the URL has been
// fetched, before anything that its author names.
func (g *Guard) Settle(rawURL string) {
	name := typedName(net.JoinHostPort(hostOf(rawURL)))
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.typed[name].isNew() {
		delete(g.typed, name)
	}
}

// SettleUnused is Settle for a URL that is fetched after other URLs that an author names. It reports whether the URL
// must be fetched now, because its host is on this machine. A host that cannot be resolved here is left to proxies.
func (g *Guard) SettleUnused(ctx context.Context, rawURL string) (fetch bool) {
	host, port := hostOf(rawURL)
	found, err := g.addresses(ctx, host)
	if err == nil && g.checkAll(found, port) != nil {
		return true
	}
	if err == nil {
		g.Settle(rawURL)
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.typed[typedName(net.JoinHostPort(host, port))]; t.isNew() {
		t.proxy = anyProxy
	}
	return false
}

// typedName returns the key of HOST:PORT in Guard.typed.
func typedName(addr string) string { return strings.ToLower(addr) }

// typedHost returns what is known about a host of the command line; nil for other hosts.
func (g *Guard) typedHost(addr string) *typedHost {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.typed[typedName(addr)]
	if t == nil {
		return nil
	}
	known := *t
	return &known
}

// connected is called after each connection for HOST:PORT, with the address that it led to. It returns a LocalError if
// that address must not be used: several connections that began at once need not lead to the same one.
func (g *Guard) connected(addr string, to netip.AddrPort, here bool) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.typed[typedName(addr)]
	switch {
	case t != nil && t.addr.IsValid() && t.addr != to:
		return &LocalError{Addr: t.addr.String()}
	case here && t.isNew():
		t.addr, g.trusted[to] = to, true
	case here && !g.trusted[to]:
		return &LocalError{Addr: to.String()}
	case !here && t.isNew():
		delete(g.typed, typedName(addr))
	}
	return nil
}

// connectedBy is called after a proxy was given the name of HOST:PORT and connected.
func (g *Guard) connectedBy(proxy *url.URL, addr string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.typed[typedName(addr)]; t.isNew() {
		t.proxy = proxy.Host
	}
}
