package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// trial is one thing that goes wrong, and what must come of it.
type trial struct {
	name string
	set  func(t *testing.T, f *front, other *stranger)
	// pulls and pushes say whether it can succeed by trying again.
	pulls, pushes bool
	stall         time.Duration // 0: long
	check         func(t *testing.T, w *waits, err error)
}

// stranger is another host. Nobody may tell it a secret.
type stranger struct {
	*httptest.Server
	mu   sync.Mutex
	got  int
	told []string
	next http.Handler
}

func newStranger(t *testing.T) *stranger {
	s := &stranger{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		said := fmt.Sprint(r.Header, r.URL, string(body))
		s.mu.Lock()
		s.got++
		for _, secret := range []string{password, base64.StdEncoding.EncodeToString([]byte(user + ":" + password)), "Bearer", "Basic"} {
			if strings.Contains(said, secret) {
				s.told = append(s.told, r.Method+" "+r.URL.Path+" "+secret)
			}
		}
		next := s.next
		s.mu.Unlock()
		if next == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// once is true the first time for each key.
func once() func(key string) bool {
	var mu sync.Mutex
	seen := map[string]bool{}
	return func(key string) bool {
		mu.Lock()
		defer mu.Unlock()
		was := seen[key]
		seen[key] = true
		return !was
	}
}

// firstEach answers the first request of each kind with a status.
func firstEach(status int, after string) func(http.ResponseWriter, *http.Request) bool {
	first := once()
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !first(kindOf(r)) {
			return false
		}
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		return true
	}
}

// kindOf tells requests apart; those of uploads have a new path each time.
func kindOf(r *http.Request) string {
	path, _, _ := strings.Cut(r.URL.Path, "/blobs/uploads/")
	return r.Method + " " + path
}

// reset ends a connection as a broken network does.
func reset(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func isContent(r *http.Request) bool {
	return r.Method == http.MethodGet && (strings.Contains(r.URL.Path, "/blobs/") || strings.Contains(r.URL.Path, "/manifests/"))
}

// flip changes what a registry says, in the middle.
func flip(res *http.Response) error {
	if res.Request.Method != http.MethodGet || res.StatusCode >= 300 || !isContent(res.Request) {
		return nil
	}
	raw, err := io.ReadAll(res.Body)
	if err != nil || len(raw) == 0 {
		return err
	}
	raw[len(raw)/2] ^= 1
	res.Body = io.NopCloser(bytes.NewReader(raw))
	return nil
}

func hang(r *http.Request) { <-r.Context().Done() }

func trials() []trial {
	return []trial{
		{name: "nothing", set: func(*testing.T, *front, *stranger) {}, pulls: true, pushes: true},
		{name: "503", set: func(_ *testing.T, f *front, _ *stranger) { f.breaks(firstEach(503, ""), nil, nil) }, pulls: true, pushes: true},
		{name: "429 with Retry-After", set: func(_ *testing.T, f *front, _ *stranger) { f.breaks(firstEach(429, "7"), nil, nil) }, pulls: true, pushes: true,
			check: func(t *testing.T, w *waits, _ error) {
				seven := 0
				for _, d := range w.all {
					if d == 7*time.Second {
						seven++
					}
				}
				if seven == 0 {
					t.Errorf("nobody waited the 7 s that were asked for: %v", w.all)
				}
			}},
		{name: "429 for ever, an hour each", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}, nil, nil)
		}},
		{name: "resets", set: func(_ *testing.T, f *front, _ *stranger) {
			first := once()
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				if first(kindOf(r)) {
					reset(w)
					return true
				}
				return false
			}, nil, nil)
		}, pulls: true, pushes: true},
		{name: "truncation", set: func(_ *testing.T, f *front, _ *stranger) {
			first := once()
			f.breaks(nil, func(res *http.Response) error {
				if isContent(res.Request) && res.StatusCode < 300 && first(res.Request.URL.Path) {
					raw, err := io.ReadAll(res.Body)
					if err != nil {
						return err
					}
					res.Body = io.NopCloser(bytes.NewReader(raw[:len(raw)/2])) // Content-Length stays, so the proxy breaks off
				}
				return nil
			}, nil)
		}, pulls: true, pushes: true},
		{name: "wrong content", set: func(_ *testing.T, f *front, _ *stranger) { f.breaks(nil, flip, nil) }, pushes: true},
		{name: "wrong content sent", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(nil, nil, func(r *http.Request) {
				if r.Method != http.MethodPatch && r.Method != http.MethodPut || r.ContentLength <= 0 {
					return
				}
				raw, _ := io.ReadAll(r.Body)
				if len(raw) > 0 {
					raw[len(raw)/2] ^= 1
				}
				r.Body = io.NopCloser(bytes.NewReader(raw))
			})
		}, pulls: true},
		{name: "lying digest headers", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(nil, func(res *http.Response) error {
				if res.Header.Get("Docker-Content-Digest") != "" && res.Request.Method != http.MethodPut {
					res.Header.Set("Docker-Content-Digest", someDigest)
				}
				return nil
			}, nil)
		}, pulls: true, pushes: true},
		{name: "stalls", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
				if isContent(r) || r.Method == http.MethodPatch {
					_, _ = io.Copy(io.Discard, r.Body)
					hang(r)
					return true
				}
				return false
			}, nil, nil)
		}, stall: 50 * time.Millisecond},
		{name: "trickles", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				if !isContent(r) {
					return false
				}
				w.Header().Set("Content-Length", "9000")
				for r.Context().Err() == nil {
					_, _ = w.Write([]byte("x"))
					w.(http.Flusher).Flush()
					time.Sleep(5 * time.Millisecond)
				}
				return true
			}, nil, nil)
		}, pushes: true, stall: 50 * time.Millisecond},
		{name: "redirects to another host", set: func(t *testing.T, f *front, other *stranger) {
			other.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // storage that has what the registry has
				r = r.Clone(r.Context())
				r.SetBasicAuth(user, password)
				if f.auth == authToken {
					r.Header.Set("Authorization", "Bearer "+f.token(t, strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")[0]))
				}
				f.back.ServeHTTP(w, r)
			})
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
					http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
					return true
				}
				return false
			}, nil, nil)
		}, pulls: true, pushes: true},
		{name: "uploads sent to another host", set: func(_ *testing.T, f *front, other *stranger) {
			f.breaks(nil, func(res *http.Response) error {
				if at := res.Header.Get("Location"); res.Request.Method == http.MethodPost && at != "" {
					u, err := url.Parse(at)
					if err != nil {
						return err
					}
					res.Header.Set("Location", other.URL+u.RequestURI())
				}
				return nil
			}, nil)
		}, pulls: true},
		{name: "another host asks for credentials", set: func(_ *testing.T, f *front, other *stranger) {
			other.next = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="steal"`)
				w.WriteHeader(http.StatusUnauthorized)
			})
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.URL.Path, "/v2/") && r.URL.Path != "/v2/" {
					http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
					return true
				}
				return false
			}, nil, nil)
		}, check: func(t *testing.T, _ *waits, err error) {
			if err == nil || !strings.Contains(err.Error(), ", where the content is, answered 401") || strings.Contains(err.Error(), "docker login") {
				t.Errorf("the registry is blamed for another host, or a login asked for: %v", err)
			}
		}},
		{name: "token realm elsewhere", set: func(_ *testing.T, f *front, other *stranger) {
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, other.URL))
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}, nil, nil)
		}},
	}
}

// token is one that lets pull from a repository.
func (f *front) token(t *testing.T, repo string) string {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/token?scope="+url.QueryEscape("repository:"+repo+":pull,push"), nil)
	r.SetBasicAuth(user, password)
	f.issuer.serve(w, r)
	_, rest, ok := strings.Cut(w.Body.String(), `"token":"`)
	if !ok {
		t.Error("no token: " + w.Body.String())
	}
	token, _, _ := strings.Cut(rest, `"`)
	return token
}

// TestRealRegistries tries the client on real registries, with and without authentication, behind a proxy that breaks
// things: nothing wrong is accepted, no other host hears a secret, every wait is bounded, and what can succeed does.
func TestRealRegistries(t *testing.T) {
	for _, kind := range kinds() {
		for _, auth := range []authKind{authNone, authBasic, authToken} {
			t.Run(kind+" "+string(auth), func(t *testing.T) {
				t.Parallel()
				f := newFront(t, kind, auth)
				image := newImage(t, 2)
				f.store(t, "seed/image:1", image)
				for n, trial := range trials() {
					t.Run(trial.name, func(t *testing.T) { f.try(t, trial, image, "try/"+strconv.Itoa(n)) })
				}
			})
		}
	}
}

func (f *front) try(t *testing.T, trial trial, image v1.Image, repo string) {
	other := newStranger(t)
	trial.set(t, f, other)
	defer f.breaks(nil, nil, nil)
	var w waits
	client := func(can bool) *Client {
		o := Options{Keychain: f.keychain(), Wait: w.wait}
		if !can {
			o.Stall = trial.stall
		}
		return New(o)
	}
	pinned, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // only of what hangs
	defer cancel()
	pullErr := pullAll(ctx, client(trial.pulls), f.host+"/seed/image@"+pinned.String(), image)
	if (pullErr == nil) != trial.pulls {
		t.Errorf("pull: %v, want success %v", pullErr, trial.pulls)
	}
	if trial.check != nil {
		trial.check(t, &w, pullErr)
	}
	sent := newImage(t, 2)
	pushErr := client(trial.pushes).Push(ctx, []PushImage{{Refs: []string{f.host + "/" + repo + ":1"}, Image: sent}}, nil)
	if (pushErr == nil) != trial.pushes {
		t.Errorf("push: %v, want success %v", pushErr, trial.pushes)
	}
	if ctx.Err() != nil {
		t.Error("a wait without an end")
	}
	for _, d := range w.all {
		if d > time.Minute || len(w.all) > 200 {
			t.Errorf("%d waits, one of %s", len(w.all), d)
			break
		}
	}
	for _, err := range []error{pullErr, pushErr} {
		if err != nil && (strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "Bearer ey")) {
			t.Errorf("a secret is in the message: %v", err)
		}
	}
	if other.told != nil {
		t.Errorf("another host was told: %v", other.told)
	}
	f.breaks(nil, nil, nil)
	f.holds(t, repo+":1", sent, pushErr == nil)
}

// pullAll reads an image as an engine does, and compares every byte.
func pullAll(ctx context.Context, c *Client, ref string, want v1.Image) error {
	got, err := c.Resolve(ctx, ref, amd64)
	if err != nil {
		return err
	}
	layers, err := want.Layers()
	if err != nil {
		return err
	}
	if len(layers) != len(got.Manifest.Layers) {
		return fmt.Errorf("%d layers, want %d", len(got.Manifest.Layers), len(layers))
	}
	for k, l := range got.Manifest.Layers {
		r, err := c.Blob(ctx, ref, ocispecs.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
		if err != nil {
			return err
		}
		content, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		if h, _ := layers[k].Digest(); digest.FromBytes(content).String() != h.String() {
			return fmt.Errorf("layer %d has other content: nobody noticed", k)
		}
	}
	return nil
}

func (f *front) remote() remote.Option {
	if f.auth == authNone {
		return remote.WithAuth(authn.Anonymous)
	}
	return remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: user, Password: password}))
}

// store puts an image there by other means than the client under test.
func (f *front) store(t *testing.T, ref string, image v1.Image) {
	t.Helper()
	parsed, err := name.ParseReference(f.host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(parsed, image, f.remote()); err != nil {
		t.Fatal(err)
	}
}

// holds checks with another client that a tag names an image, whole; or, when a push failed, that it names nothing.
func (f *front) holds(t *testing.T, ref string, want v1.Image, pushed bool) {
	t.Helper()
	parsed, err := name.ParseReference(f.host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(parsed, f.remote())
	if !pushed {
		if err == nil {
			t.Error("the push failed, and the tag is there")
		}
		return
	}
	if err == nil {
		err = validate.Image(got)
	}
	if err != nil {
		t.Errorf("another client finds: %v", err)
		return
	}
	a, _ := got.Digest()
	if b, _ := want.Digest(); a != b {
		t.Errorf("the tag names %s, want %s", a, b)
	}
}
