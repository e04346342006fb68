package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// Guard connects for a remote definition.
//
// Its author names hosts: in ADD, in contexts, and in the answers of servers that he owns, which redirect, list
// submodules, or resolve a name to another address in each request. So names mean nothing. What counts is the address
// of each connection, which is checked after it was resolved and before the first packet is sent. Only hosts of URLs on
// the command line are exempt, with their port, see Trust.
//
// A proxy of the user resolves names itself, so that there is nothing to check here. A proxy on this machine could
// reach its loopback: it gets addresses that were checked, in CONNECT requests, and no names. A proxy elsewhere gets
// names that do not resolve to this machine here; what it reaches is its own network.
//
// TestGuard shows the refusals for each way that leads to an address, TestGitIsGuarded in package fetch those of git.
type Guard struct {
	proxies  func(*url.URL) (*url.URL, error) // the proxy for a URL, or nil
	resolver *net.Resolver
	own      func() ([]netip.Addr, error)
	here     func(context.Context, *url.URL) bool // reports whether a proxy is on this machine

	http, https, proxied *http.Transport

	mu      sync.Mutex
	trusted map[netip.AddrPort]bool
	typed   map[string]*typedHost // by HOST:PORT
	relay   *relay
}

// New returns a guard that uses the proxies of an environment.
func New(getenv func(string) string) *Guard {
	g := &Guard{
		proxies: proxies(getenv), own: ownAddresses, resolver: net.DefaultResolver,
		trusted: map[netip.AddrPort]bool{}, typed: map[string]*typedHost{},
	}
	g.here = g.isHere
	g.http, g.https = g.transport("http"), g.transport("https")
	g.proxied = newTransport()
	g.proxied.Proxy = func(r *http.Request) (*url.URL, error) { return g.proxies(r.URL) }
	return g
}

// proxies returns the function that selects the proxy for a URL, as net/http does. ALL_PROXY is used if there is no
// other.
func proxies(getenv func(string) string) func(*url.URL) (*url.URL, error) {
	first := func(names ...string) string {
		for _, name := range names {
			if v := getenv(name); v != "" {
				return v
			}
		}
		return ""
	}
	c := httpproxy.Config{
		HTTPProxy:  first("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"),
		HTTPSProxy: first("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"),
		NoProxy:    first("NO_PROXY", "no_proxy"),
	}
	return c.ProxyFunc()
}

func newTransport() *http.Transport {
	return &http.Transport{
		ForceAttemptHTTP2: true, MaxIdleConns: 20, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: time.Second,
	}
}

// transport returns a transport whose connections are guarded.
func (g *Guard) transport(scheme string) *http.Transport {
	t := newTransport()
	t.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		return g.Connect(ctx, scheme, addr)
	}
	return t
}

// hostOf returns the host and port that fetching a URL connects to first.
func hostOf(rawURL string) (host, port string) {
	if !strings.Contains(rawURL, "://") {
		before, _, isSCP := strings.Cut(rawURL, ":")
		if _, at, hasUser := strings.Cut(before, "@"); isSCP && hasUser && !strings.Contains(before, "/") {
			return at, "22"
		}
		rawURL = "https://" + rawURL
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", ""
	}
	port = u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80", "ssh": "22", "git": "9418"}[u.Scheme]
	}
	return u.Hostname(), port
}

// addresses resolves a host.
func (g *Guard) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	found, err := g.resolver.LookupNetIP(ctx, "ip", host)
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found, err
}

// check returns a LocalError for an address that is local and not trusted. name is the HOST:PORT that led to it, whose
// first connection may lead to any address; "" for none.
func (g *Guard) check(name string, a netip.AddrPort) error {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	own, err := g.own()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if isLocal(a.Addr(), own) && !g.trusted[a] && !g.typed[typedName(name)].isNew() {
		return &LocalError{Addr: a.String()}
	}
	return nil
}

// Connect connects to HOST:PORT for a URL with the scheme, through the user's proxy if there is one for it. The scheme
// "" uses no proxy.
func (g *Guard) Connect(ctx context.Context, scheme, addr string) (net.Conn, error) {
	var proxy *url.URL
	var err error
	if scheme != "" {
		if proxy, err = g.proxies(&url.URL{Scheme: scheme, Host: addr}); err != nil {
			return nil, err
		}
	}
	if proxy == nil {
		return g.dial(ctx, addr)
	}
	targets, err := g.throughProxy(ctx, proxy, addr)
	if err != nil {
		return nil, err
	}
	for _, target := range targets {
		var c net.Conn
		if c, err = viaProxy(ctx, proxy, target); err != nil {
			continue
		}
		if err = g.connectedVia(proxy, addr, target); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
	return nil, err
}

// connectedVia is called after a proxy connected to a target, an address or addr itself.
func (g *Guard) connectedVia(proxy *url.URL, addr, target string) error {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		g.connectedBy(proxy, addr)
		return nil
	}
	own, err := g.own()
	if err != nil {
		return err
	}
	return g.connected(addr, to, isLocal(to.Addr(), own))
}

// dial connects directly. The address is checked in Control, which sees what is dialled, whatever name led to it.
func (g *Guard) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{
		Timeout: 20 * time.Second, KeepAlive: 30 * time.Second, Resolver: g.resolver,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err != nil {
				return &LocalError{Addr: address}
			}
			return g.check(addr, a)
		},
	}
	at := addr
	if t := g.typedHost(addr); t != nil && t.addr.IsValid() {
		at = t.addr.String()
	}
	c, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	// The kernel connects an address that it routes to itself, although no interface has it, from the same address.
	from, _ := c.LocalAddr().(*net.TCPAddr)
	to, _ := c.RemoteAddr().(*net.TCPAddr)
	if from == nil || to == nil {
		return nil, errors.Join(&LocalError{Addr: c.RemoteAddr().String()}, c.Close())
	}
	own, err := g.own()
	if err == nil {
		err = g.connected(addr, to.AddrPort(), from.IP.Equal(to.IP) || isLocal(to.AddrPort().Addr().Unmap(), own))
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// RoundTrip implements http.RoundTripper.
func (g *Guard) RoundTrip(req *http.Request) (*http.Response, error) {
	switch req.URL.Scheme {
	case "https":
		return g.https.RoundTrip(req)
	case "http":
	default:
		return nil, fmt.Errorf("unsupported scheme %q", req.URL.Scheme)
	}
	proxy, err := g.proxies(req.URL)
	if err != nil {
		return nil, err
	}
	if proxy == nil || g.here(req.Context(), proxy) {
		return g.http.RoundTrip(req)
	}
	// Proxies often refuse CONNECT for plain HTTP, so one elsewhere gets the request itself.
	_, port := hostOf(req.URL.String())
	addr := net.JoinHostPort(req.URL.Hostname(), port)
	if _, err := g.throughProxy(req.Context(), proxy, addr); err != nil {
		return nil, err
	}
	res, err := g.proxied.RoundTrip(req)
	if err == nil {
		g.connectedBy(proxy, addr)
	}
	return res, err
}

// CheckURL returns a LocalError if the host of a URL is on this machine now. It is for URLs that another program
// fetches.
func (g *Guard) CheckURL(ctx context.Context, rawURL string) error {
	host, port := hostOf(rawURL)
	found, err := g.addresses(ctx, host)
	if err != nil {
		return nil // the fetch reports this
	}
	return g.checkAll(found, port)
}

// checkAll returns a LocalError if one of the addresses is local and not trusted.
func (g *Guard) checkAll(found []netip.Addr, port string) error {
	for _, a := range found {
		if p, err := netip.ParseAddrPort(net.JoinHostPort(a.String(), port)); err == nil {
			if err := g.check("", p); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close closes all connections.
func (g *Guard) Close() error {
	for _, t := range []*http.Transport{g.http, g.https, g.proxied} {
		t.CloseIdleConnections()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.relay == nil {
		return nil
	}
	return g.relay.close()
}
