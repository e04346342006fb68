package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// host is what all repositories of one registry share: the transport, and the answer to GET /v2/.
type host struct {
	guard     *guard
	transport http.RoundTripper // without authentication
}

// host returns the registry of an endpoint. If the error is not nil, the result can only be used for messages.
func (c *Client) host(at endpoint) (*host, error) {
	at.repo, at.mirror = "", false
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.hosts[at]; h != nil {
		return h, nil
	}
	h := &host{guard: &guard{at: at, base: c.base}}
	own, err := c.ownTransport(at)
	if err != nil {
		return h, err
	}
	h.guard.own = own
	retries := &retrier{
		next: &watched{next: h.guard, stall: c.opt.Stall}, backoff: c.opt.Backoff, maxWait: c.opt.MaxWait,
		wait: c.opt.Wait,
	}
	h.transport = &headless{next: &greeter{
		host: at.host, asked: map[string]*greeting{}, next: transport.NewUserAgent(retries, c.opt.UserAgent),
	}}
	c.hosts[at] = h
	return h, nil
}

// greeter is a transport that sends GET /v2/ once per registry and answers it from memory for all repositories. The
// answer says how to authenticate.
type greeter struct {
	host string
	next http.RoundTripper

	mu     sync.Mutex
	asked  map[string]*greeting // by scheme
	scheme string               // the scheme that worked first; the other one is not tried again
}

// greeting is the answer to GET /v2/, once it was 200 or 401.
type greeting struct {
	turn   chan struct{} // a lock that a context can interrupt
	status int
	header http.Header
	body   []byte
}

// RoundTrip implements http.RoundTripper.
func (g *greeter) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet || req.URL.Path != "/v2/" || req.URL.Host != g.host ||
		req.Header.Get("Authorization") != "" {
		return g.next.RoundTrip(req)
	}
	known, err := g.of(req.URL.Scheme)
	if err != nil {
		return nil, err
	}
	select {
	case <-known.turn:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	defer func() { known.turn <- struct{}{} }()
	if known.status != 0 {
		return known.answer(req), nil
	}
	res, err := g.next.RoundTrip(req)
	if err != nil || res.StatusCode != http.StatusOK && res.StatusCode != http.StatusUnauthorized {
		return res, err
	}
	defer res.Body.Close()
	if known.body, err = io.ReadAll(io.LimitReader(res.Body, maxDrain)); err != nil {
		return nil, err
	}
	known.status, known.header = res.StatusCode, res.Header
	g.settle(req.URL.Scheme)
	return known.answer(req), nil
}

func (g *greeter) of(scheme string) (*greeting, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.scheme != "" && g.scheme != scheme {
		return nil, &refusedError{g.host + " speaks " + g.scheme}
	}
	known := g.asked[scheme]
	if known == nil {
		known = &greeting{turn: make(chan struct{}, 1)}
		known.turn <- struct{}{}
		g.asked[scheme] = known
	}
	return known, nil
}

func (g *greeter) settle(scheme string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.scheme == "" {
		g.scheme = scheme
	}
}

func (g *greeting) answer(req *http.Request) *http.Response {
	return &http.Response{
		Status: http.StatusText(g.status), StatusCode: g.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: g.header.Clone(), Body: io.NopCloser(bytes.NewReader(g.body)), ContentLength: int64(len(g.body)),
		Request: req,
	}
}
