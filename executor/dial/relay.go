package dial

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"
)

// relay is a proxy on the loopback for programs whose connections this process cannot guard, such as git. It is only
// for their environment: each run of a program has a token of its own.
type relay struct {
	guard  *Guard
	addr   string
	server *http.Server

	mu   sync.Mutex
	runs map[string]*Run // by token
}

// Run is one run of a program that connects through the guard. Close it.
type Run struct {
	relay *relay
	token string

	mu  sync.Mutex
	err error
}

// Start returns a new run.
func (g *Guard) Start() (*Run, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.relay == nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("listen for connections of git: %w", err)
		}
		r := &relay{guard: g, addr: l.Addr().String(), runs: map[string]*Run{}}
		r.server = &http.Server{Handler: r, ReadHeaderTimeout: proxyTimeout, MaxHeaderBytes: 1 << 20}
		go func() { _ = r.server.Serve(l) }() // it ends with close
		g.relay = r
	}
	run := &Run{relay: g.relay, token: rand.Text()}
	g.relay.mu.Lock()
	defer g.relay.mu.Unlock()
	g.relay.runs[run.token] = run
	return run, nil
}

func (r *relay) close() error { return r.server.Close() }

// Close ends the run: its token is no longer valid.
func (r *Run) Close() {
	r.relay.mu.Lock()
	defer r.relay.mu.Unlock()
	delete(r.relay.runs, r.token)
}

// Err returns the first connection that was refused, or nil.
func (r *Run) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *Run) refused(err error) {
	var local *LocalError
	if !errors.As(err, &local) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = local
	}
}

// ServeHTTP implements http.Handler.
func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	run := r.runOf(req)
	switch {
	case run == nil:
		w.Header().Set("Proxy-Authenticate", `Basic realm="bake"`)
		http.Error(w, "unknown token", http.StatusProxyAuthRequired)
	case req.Method == http.MethodConnect:
		r.tunnel(w, req, run)
	case req.URL.Scheme == "http" && req.URL.Host != "":
		forward := &httputil.ReverseProxy{
			Rewrite: func(p *httputil.ProxyRequest) { p.Out.Header.Del("Proxy-Authorization") }, Transport: r.guard,
			FlushInterval: -1,
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				run.refused(err)
				http.Error(w, err.Error(), http.StatusBadGateway)
			},
		}
		forward.ServeHTTP(w, req)
	default:
		http.Error(w, "not a request to a proxy", http.StatusBadRequest)
	}
}

// runOf returns the run whose token a request carries, or nil.
func (r *relay) runOf(req *http.Request) *Run {
	secret, _ := strings.CutPrefix(req.Header.Get("Proxy-Authorization"), "Basic ")
	raw, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		return nil
	}
	_, token, _ := strings.Cut(string(raw), ":")
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs[token]
}

// directHeader marks requests of protocols other than HTTP, which use no proxy of the user.
const directHeader = "Bake-Direct"

// tunnel answers CONNECT.
func (r *relay) tunnel(w http.ResponseWriter, req *http.Request, run *Run) {
	scheme := "https"
	if req.Header.Get(directHeader) != "" {
		scheme = ""
	}
	out, err := r.guard.Connect(req.Context(), scheme, req.Host)
	if err != nil {
		run.refused(err)
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer out.Close()
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return
	}
	in, buffer, err := hijacker.Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	if _, err := io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	pipe(in, buffer.Reader, out)
}

// pipe copies between two connections until both directions have ended, or one has failed.
func pipe(in net.Conn, buffered io.Reader, out net.Conn) {
	var both sync.WaitGroup
	copyTo := func(to net.Conn, from io.Reader) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
			return
		}
		_ = to.SetDeadline(time.Unix(1, 0))
	}
	both.Go(func() { copyTo(out, buffered) })
	copyTo(in, out)
	both.Wait()
}
