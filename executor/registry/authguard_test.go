package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

func TestGuardRefuses(t *testing.T) {
	for _, c := range []struct {
		at   endpoint
		url  string
		want bool
	}{
		{endpoint{host: "r.example"}, "https://r.example/v2/", true},
		{endpoint{host: "r.example"}, "http://r.example/v2/", false},
		{endpoint{host: "r.example"}, "https://storage.example/x", true},
		{endpoint{host: "r.example"}, "http://storage.example/x", false},
		{endpoint{host: "r.example"}, "https://127.0.0.1/x", false},
		{endpoint{host: "r.example"}, "https://localhost/x", false},
		{endpoint{host: "r.example"}, "https://169.254.169.254/latest", false},
		{endpoint{host: "r.example"}, "https://[fe80::1]/x", false},
		{endpoint{host: "r.example"}, "https://[::ffff:127.0.0.1]/x", false},
		{endpoint{host: "r.example"}, "file:///etc/passwd", false},
		{endpoint{host: "10.0.0.1:5000"}, "http://10.0.0.1:5000/v2/", false},
		{endpoint{host: "10.0.0.1:5000", insecure: true}, "http://10.0.0.1:5000/v2/", true},
		{endpoint{host: "localhost:5000", plain: true}, "http://localhost:5000/v2/", true},
		{endpoint{host: "localhost:5000", plain: true}, "https://localhost:5000/v2/", false},
		{endpoint{host: "localhost:5000", plain: true}, "http://127.0.0.1:9000/storage", true},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		if err := (&guard{at: c.at}).check(u, u.Host == c.at.host); (err == nil) != c.want {
			t.Errorf("%+v to %s: %v", c.at, c.url, err)
		}
	}
}

// sent records the requests that would reach the network.
type sent struct{ got []*http.Request }

var errNoNetwork = errors.New("no network")

func (s *sent) RoundTrip(r *http.Request) (*http.Response, error) {
	s.got = append(s.got, r)
	return nil, errNoNetwork
}

func TestGuardTakesCredentialsOff(t *testing.T) {
	s := &sent{}
	g := &guard{at: endpoint{host: "r.example:443"}, own: s, base: s}
	challenge := `Bearer realm="https://auth.example/token",service="x"`
	g.learn(&http.Response{Header: http.Header{"Www-Authenticate": {challenge}}})
	g.learn(&http.Response{Header: http.Header{"Www-Authenticate": {`Bearer realm="https://thief.example/token"`}}})
	for address, want := range map[string]bool{
		"https://r.example:443/v2/":       true,
		"https://r.example/v2/":           false,
		"https://r.example:8443/v2/":      false,
		"https://auth.example/token":      true,
		"https://sub.auth.example/x":      false,
		"https://thief.example/token":     false,
		"https://r.example.evil.invalid/": false,
	} {
		s.got = nil
		req, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer secret")
		if _, err := g.RoundTrip(req); !errors.Is(err, errNoNetwork) {
			t.Fatal(err)
		}
		if got := s.got[0].Header.Get("Authorization") != ""; got != want {
			t.Errorf("%s: credentials sent %v, want %v", address, got, want)
		}
		if req.Header.Get("Authorization") == "" {
			t.Error("the caller's own request was changed")
		}
	}
	post, err := http.NewRequest(http.MethodPost, "https://thief.example/token",
		strings.NewReader("refresh_token=secret"))
	if err != nil {
		t.Fatal(err)
	}
	post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	s.got = nil
	if _, err := g.RoundTrip(post); !isRefused(err) || len(s.got) != 0 {
		t.Errorf("a token form went to another host: %v", err)
	}
}

func TestStalledUpload(t *testing.T) {
	f := newFake(t, nil)
	image := newImage(t, 1)
	f.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that the client has gone
			<-r.Context().Done()
			return true
		}
		return false
	})
	c := newTestClient(t, func(o *Options) { o.Stall = 15 * time.Millisecond })
	start := time.Now()
	err := c.Push(context.Background(), []PushImage{{Refs: []string{f.host + "/x:1"}, Image: image}}, nil)
	e := asError(t, err)
	contains(t, e, "no data received", "push blob")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
}

func TestCredentialsAreOfHostAndPort(t *testing.T) {
	f := newFake(t, nil)
	put(t, f, "x:1", newImage(t, 1))
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
			return true
		}
		return false
	})
	host, _, _ := strings.Cut(f.host, ":")
	c := newTestClient(t, func(o *Options) {
		o.Keychain = keys{host: {Username: "me", Password: "hunter22"}, host +
			":1": authn.AuthConfig{Username: "me", Password: "hunter22"}}
	})
	_, err := c.Resolve(context.Background(), f.host+"/x:1", amd64)
	contains(t, asError(t, err), "401", "no credentials for "+f.host)
}
