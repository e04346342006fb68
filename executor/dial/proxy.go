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

// proxyTimeout bounds the connection to a proxy, with its TLS handshake, and the proxy's answer.
const proxyTimeout = 30 * time.Second

// throughProxy returns what a proxy may be asked to connect to for HOST:PORT, in order.
func (g *Guard) throughProxy(ctx context.Context, at *url.URL, addr string) ([]string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	here, typed := g.here(ctx, at), g.typedHost(addr)
	if typed != nil && typed.addr.IsValid() && here {
		return []string{typed.addr.String()}, nil
	}
	byName := typed.isNew() || typed != nil && (typed.proxy == at.Host || typed.proxy == anyProxy)
	found, err := g.addresses(ctx, host)
	if err != nil {
		if here && !byName {
			return nil, &LocalError{Addr: addr, Via: at.Redacted()}
		}
		return []string{addr}, nil
	}
	var checked []string
	for _, a := range found {
		p, err := netip.ParseAddrPort(net.JoinHostPort(a.String(), port))
		if err == nil && (here || !byName) {
			err = g.check(addr, p)
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
	ctx, cancel := context.WithTimeoutCause(ctx, proxyTimeout, fmt.Errorf("no answer for %s", proxyTimeout))
	defer cancel()
	c, err := openProxy(ctx, at, target)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("proxy %s: %w", at.Redacted(), err)
	}
	return c, nil
}

// openProxy is viaProxy, bounded by ctx. It speaks the proxy's protocol.
func openProxy(ctx context.Context, at *url.URL, target string) (net.Conn, error) {
	port, known := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[at.Scheme]
	if !known {
		return nil, errors.New("unsupported scheme")
	}
	addr := at.Host
	if at.Port() == "" {
		addr = net.JoinHostPort(at.Hostname(), port)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if at.Scheme == "socks5" || at.Scheme == "socks5h" {
		if err := connectSOCKS(ctx, c, at.User, target); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
	if at.Scheme == "https" {
		secure := tls.Client(c, &tls.Config{ServerName: at.Hostname()})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c = secure
	}
	opened, err := connect(ctx, c, at.User, target)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return opened, nil
}

// connectSOCKS asks a SOCKS proxy for a connection over c, until ctx ends. Afterwards c leads to the target.
func connectSOCKS(ctx context.Context, c net.Conn, user *url.Userinfo, target string) error {
	var auth *proxy.Auth
	if user != nil {
		password, _ := user.Password()
		auth = &proxy.Auth{User: user.Username(), Password: password}
	}
	socks, err := proxy.SOCKS5("tcp", c.RemoteAddr().String(), auth, nil)
	if err != nil {
		return err
	}
	over, ok := socks.(interface {
		DialWithConn(ctx context.Context, c net.Conn, network, address string) (net.Addr, error)
	})
	if !ok {
		return errors.ErrUnsupported
	}
	_, err = over.DialWithConn(ctx, c, "tcp", target)
	return err
}

// connect sends a CONNECT request over c, until ctx ends, and returns the connection to the target.
func connect(ctx context.Context, c net.Conn, user *url.Userinfo, target string) (net.Conn, error) {
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

// CloseWrite ends what is sent. The other direction goes on: git ends its request so and then reads the response.
func (b *buffered) CloseWrite() error {
	half, ok := b.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
