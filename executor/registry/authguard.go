package registry

// The guard limits where credentials go. It is the innermost transport, below authentication and redirects, so it sees
// every request that is about to be sent.
//
// Invariants:
//   - An Authorization header reaches only the session's host and port, and the token service that this host named
//     first, over HTTPS or on the host itself. Without this, a redirect, a layer URL or an upload location could
//     collect the user's password (TestGuardTakesCredentialsOff, TestTokenServiceElsewhere).
//   - A form with a refresh token is never redirected elsewhere.
//   - Nothing is sent over plain HTTP unless the configuration allows it, and a registry on the network cannot direct
//     the client to this machine or to a link-local address such as cloud metadata (TestGuardRefuses).
//   - Secrets never appear in messages, even if a registry repeats them (TestReflectedSecretIsNotShown).

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
)

// maxRedirects bounds the redirects of one request.
const maxRedirects = 5

// guard is the innermost transport of a host's sessions.
type guard struct {
	at   endpoint
	own  http.RoundTripper // to the session's host
	base http.RoundTripper // to all others

	mu      sync.Mutex
	realm   string // scheme://host of the token service
	secrets []string
}

// refusedError means that the guard did not send a request.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	home := req.URL.Host == g.at.host
	if err := g.check(req.URL, home); err != nil {
		closeBody(req)
		return nil, err
	}
	trusted := home || g.isRealm(req.URL)
	if !trusted && req.Header.Get("Content-Type") == "application/x-www-form-urlencoded" {
		closeBody(req)
		return nil, &refusedError{"the token service redirects credentials to " + req.URL.Host +
			", which is not allowed"}
	}
	if auth := req.Header.Get("Authorization"); auth != "" {
		if trusted {
			_, secret, _ := strings.Cut(auth, " ")
			g.conceal(secret)
		} else {
			req = req.Clone(req.Context())
			req.Header.Del("Authorization")
		}
	}
	next := g.base
	if home {
		next = g.own
	}
	res, err := next.RoundTrip(req)
	if err == nil && home && res.StatusCode == http.StatusUnauthorized {
		g.learn(res)
	}
	return res, err
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// check reports an error if a request to u must not be sent. home means that u is on the session's host.
func (g *guard) check(u *url.URL, home bool) error {
	switch {
	case u.Scheme == "https" && home && g.at.plain:
		return &refusedError{g.at.host + " uses plain HTTP"}
	case u.Scheme == "http" && (g.at.plain || g.at.insecure), u.Scheme == "https":
	default:
		return &refusedError{fmt.Sprintf("a request to %s over %s is not allowed", u.Host, u.Scheme)}
	}
	if !home && !isLoopback(g.at.host) && isNear(u.Hostname()) {
		return &refusedError{"it redirects to " + u.Host + ", which is not allowed"}
	}
	return nil
}

// isNear reports whether a host is this machine or link-local, where clouds serve metadata.
func isNear(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost"
	}
	addr = addr.Unmap()
	return addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified()
}

var realmParameter = regexp.MustCompile(`(?i)\brealm="([^"]+)"`)

// learn stores the token service that the session's host names in its challenge.
func (g *guard) learn(res *http.Response) {
	for _, challenge := range res.Header.Values("WWW-Authenticate") {
		m := realmParameter.FindStringSubmatch(challenge)
		if m == nil {
			continue
		}
		if u, err := url.Parse(m[1]); err == nil && u.Host != "" && (u.Scheme == "https" || u.Host == g.at.host) {
			g.mu.Lock()
			if g.realm == "" {
				g.realm = u.Scheme + "://" + u.Host
			}
			g.mu.Unlock()
		}
	}
}

func (g *guard) isRealm(u *url.URL) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.realm != "" && u.Scheme+"://"+u.Host == g.realm
}

// conceal records secrets that messages must not contain.
func (g *guard) conceal(secrets ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range secrets {
		known := len(s) < 4
		for _, have := range g.secrets {
			known = known || have == s
		}
		if !known && len(g.secrets) < 64 {
			g.secrets = append(g.secrets, s)
		}
	}
}

// scrub replaces the recorded secrets in text.
func (g *guard) scrub(text string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.secrets {
		text = strings.ReplaceAll(text, s, "***")
	}
	return text
}

// checkRedirect bounds the number of redirects. The guard checks their targets.
func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &refusedError{fmt.Sprintf("more than %d redirects", maxRedirects)}
	}
	return nil
}

// outsideClient returns the client for layer URLs: HTTPS only, no credentials, never this machine.
func (c *Client) outsideClient() *http.Client {
	return &http.Client{
		Transport: &retrier{
			next:    &watched{next: &guard{base: c.base, own: c.base}, stall: c.opt.Stall},
			backoff: c.opt.Backoff, maxWait: c.opt.MaxWait, wait: c.opt.Wait,
		},
		CheckRedirect: checkRedirect,
	}
}

// isRefused reports whether a request was not sent.
func isRefused(err error) bool {
	var refused *refusedError
	var address *net.AddrError
	return errors.As(err, &refused) || errors.As(err, &address)
}
