package dial

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/net/proxy"
)

// proxyTimeout bounds the connection to a proxy and its answer to CONNECT.
const proxyTimeout = 30 * time.Second

// throughProxy returns what a proxy may be asked to connect to for HOST:PORT, in order.
func (g *Guard) throughProxy(ctx context.Context, at *url.URL, addr string) ([]string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	here := g.here(ctx, at)
	found, err := g.addresses(ctx, host)
	if err != nil {
		g.mu.Lock()
		named := g.names[addr]
		g.mu.Unlock()
		if here && !named {
			return nil, &LocalError{Addr: addr, Via: at.Redacted()}
		}
		return []string{addr}, nil
	}
	var checked []string
	for _, a := range found {
		p, err := netip.ParseAddrPort(net.JoinHostPort(a.String(), port))
		if err == nil {
			err = g.check(p)
		}
		if err != nil {
			return nil, err
		}
		checked = append(checked, p.String())
	}
	if here {
		return checked, nil
	}
	return []string{addr}, nil
}

// isHere reports whether a proxy is on this machine, or may be.
func (g *Guard) isHere(ctx context.Context, at *url.URL) bool {
	found, err := g.addresses(ctx, at.Hostname())
	own, ownErr := g.own()
	if err != nil || ownErr != nil {
		return true
	}
	for _, a := range found {
		if isLocal(a, own) {
			return true
		}
	}
	return false
}

// viaProxy asks a proxy for a connection.
func viaProxy(ctx context.Context, at *url.URL, target string) (net.Conn, error) {
	addr := at.Host
	if at.Port() == "" {
		port := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[at.Scheme]
		addr = net.JoinHostPort(at.Hostname(), port)
	}
	dialer := &net.Dialer{Timeout: proxyTimeout}
	switch at.Scheme {
	case "socks5", "socks5h":
		var auth *proxy.Auth
		if u := at.User; u != nil {
			password, _ := u.Password()
			auth = &proxy.Auth{User: u.Username(), Password: password}
		}
		socks, err := proxy.SOCKS5("tcp", addr, auth, dialer)
		if err != nil {
			return nil, err
		}
		return socks.(proxy.ContextDialer).DialContext(ctx, "tcp", target)
	case "http", "https":
	default:
		return nil, fmt.Errorf("proxy %s: unsupported scheme", at.Redacted())
	}
	c, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", at.Redacted(), err)
	}
	if at.Scheme == "https" {
		secure := tls.Client(c, &tls.Config{ServerName: at.Hostname()})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("proxy %s: %w", at.Redacted(), err), c.Close())
		}
		c = secure
	}
	opened, err := connect(ctx, c, at.User, target)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("proxy %s: %w", at.Redacted(), err), c.Close())
	}
	return opened, nil
}

// connect sends a CONNECT request over c and returns the connection to the target.
func connect(ctx context.Context, c net.Conn, user *url.Userinfo, target string) (net.Conn, error) {
	if err := c.SetDeadline(time.Now().Add(proxyTimeout)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		secret := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		req.Header.Set("Proxy-Authorization", "Basic "+secret)
	}
	if err := req.Write(c); err != nil {
		return nil, err
	}
	// Nothing but the answer may be buffered: what follows belongs to the caller.
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, errors.Join(context.Cause(ctx), err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it does not connect to %s: %s", target, res.Status)
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return &buffered{c, r}, c.SetDeadline(time.Time{})
}

// buffered is a connection whose first bytes were read already.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
