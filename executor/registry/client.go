// Package registry talks to container registries: one client for pulls and pushes, with the user's credentials and
// mirrors, which retries what may pass and bounds what it reads.
//
// What a registry sends is checked against digests and limits before it is believed. Credentials go to the host and
// port that they are for and to the token service that it names, and never along with a redirect.
package registry

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	digest "github.com/opencontainers/go-digest"
)

// Defaults of Options, and how often things are tried.
const (
	defaultStall   = 30 * time.Second
	defaultMaxWait = time.Minute
	maxTries       = 5 // of one request
	maxStalls      = 2 // tries that may end without a byte
)

// Options are what a client depends on. The zero value is right for a command.
type Options struct {
	Config    *Config        // nil: no mirrors
	UserAgent string         // "bake/1.2"
	Keychain  authn.Keychain // nil: the Docker and Podman configuration of the user
	// Transport carries the requests; nil is the usual one, with proxies from the environment. A *http.Transport is
	// copied without certificate checks for registries that registries.conf calls insecure.
	Transport http.RoundTripper
	Stall     time.Duration // a transfer without a byte for so long ends; 0 is 30 s
	// Backoff is how long to wait before try n+1, n from 1; nil is a random time below 200 ms doubled each time.
	Backoff func(n int) time.Duration
	// MaxWait is the longest that a Retry-After is heeded; 0 is one minute.
	MaxWait time.Duration
	// Offline refuses to ask anybody anything.
	Offline bool
	// Wait sleeps between tries, unless the context ends first; nil really does.
	Wait func(ctx context.Context, d time.Duration) error
	// CertDirs are searched for a directory HOST[:PORT] with its certificates, as containers-certs.d(5) says; see CertDirs.
	CertDirs []string
}

// Client talks to registries. Use New. It may be used by several goroutines.
type Client struct {
	opt      Options
	base     http.RoundTripper
	outside  *http.Client // for layer URLs outside registries: no credentials
	mu       sync.Mutex
	hosts    map[endpoint]*host // by endpoint without its repository
	sessions map[string]*opening
	small    map[digest.Digest][]byte // manifests and configs read, by digest, all checked
	smallSum int
	sources  map[digest.Digest][]endpoint // where layers were seen: what pushes can mount
	served   map[string]string            // by repository asked for: the endpoint that answered last
}

// New makes a client. It sends nothing until it is asked something.
func New(opt Options) *Client {
	if opt.Stall == 0 {
		opt.Stall = defaultStall
	}
	if opt.MaxWait == 0 {
		opt.MaxWait = defaultMaxWait
	}
	if opt.Backoff == nil {
		opt.Backoff = jitter
	}
	if opt.Wait == nil {
		opt.Wait = sleep
	}
	if opt.Keychain == nil {
		opt.Keychain = NewKeychain(os.LookupEnv)
	}
	if opt.UserAgent == "" {
		opt.UserAgent = "bake"
	}
	c := &Client{
		opt: opt, base: opt.Transport, hosts: map[endpoint]*host{}, sessions: map[string]*opening{}, small: map[digest.Digest][]byte{},
		sources: map[digest.Digest][]endpoint{}, served: map[string]string{},
	}
	if c.base == nil {
		c.base = usualTransport()
	}
	c.outside = c.outsideClient()
	return c
}

// jitter is a random time below 200 ms doubled with each try.
func jitter(n int) time.Duration {
	return time.Duration(rand.Int64N(int64(200*time.Millisecond) << min(n-1, 8)))
}

func usualTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        100,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
		DisableCompression:  true, // blobs are bytes as they are
	}
}

// sleep waits, unless the context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
