// Package registry is a client for container registries, for pulls and pushes. It uses the credentials, certificates
// and mirrors of the user, retries temporary failures, and bounds what it reads.
//
// Content from a registry is checked against its digest and against limits. Credentials are sent only to the host and
// port they are for and to the token service that this host names, never to the target of a redirect.
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

// Defaults of Options, and how often requests are tried.
const (
	defaultStall   = 30 * time.Second
	defaultMaxWait = time.Minute
	maxTries       = 5 // of one request
	maxStalls      = 2 // tries of one request that may end in a stall
)

// Options configure a client. The zero value is suitable for commands.
type Options struct {
	Config    *Config        // nil: no mirrors
	UserAgent string         // "bake/1.2"
	Keychain  authn.Keychain // nil: the Docker and Podman configuration of the user
	// Transport sends the requests; nil is a new transport with proxies from the environment. A *http.Transport is
	// copied without certificate checks for registries that registries.conf marks as insecure.
	Transport http.RoundTripper
	Stall     time.Duration // a transfer with almost no data for this long fails; 0 means 30 s
	// Backoff returns how long to wait before try n+1, n from 1; nil means a random time below 200 ms, doubled each
	// time.
	Backoff func(n int) time.Duration
	// MaxWait bounds the time of a Retry-After header; 0 means one minute.
	MaxWait time.Duration
	// Offline makes every request fail without sending it.
	Offline bool
	// Wait sleeps between tries until the context ends; nil means a real sleep.
	Wait func(ctx context.Context, d time.Duration) error
	// CertDirs are searched for a directory HOST[:PORT] with certificates, see containers-certs.d(5) and CertDirs.
	CertDirs []string
}

// Client talks to registries. Create it with New. Its methods may be called by several goroutines.
type Client struct {
	opt      Options
	base     http.RoundTripper
	outside  *http.Client // for layer URLs outside registries: no credentials
	mu       sync.Mutex
	hosts    map[endpoint]*host // by endpoint without its repository
	sessions map[string]*opening
	small    map[digest.Digest][]byte     // manifests and configs read, by their verified digest
	smallSum int                          // bytes in small
	sources  map[digest.Digest][]endpoint // endpoints that have a layer: pushes can mount it from there
	served   map[string]string            // the endpoint that answered last, by requested repository
}

// New creates a client. It sends no requests.
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
		opt: opt, base: opt.Transport, hosts: map[endpoint]*host{}, sessions: map[string]*opening{},
		small:   map[digest.Digest][]byte{},
		sources: map[digest.Digest][]endpoint{}, served: map[string]string{},
	}
	if c.base == nil {
		c.base = usualTransport()
	}
	c.outside = c.outsideClient()
	return c
}

// jitter returns a random time below 200 ms, doubled with each try.
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
		DisableCompression:  true, // digests are of the bytes as stored
	}
}

// sleep waits until the time has passed or the context ends.
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
