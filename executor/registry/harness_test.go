package registry

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	memory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

var amd64 = ocispecs.Platform{OS: "linux", Architecture: "amd64"}

// request is a request that a test registry received.
type request struct {
	method, path, auth, rng string
}

// fake is a registry in memory. It records requests, and hook may answer them first.
type fake struct {
	*httptest.Server
	host string
	mu   sync.Mutex
	got  []request
	hook func(w http.ResponseWriter, r *http.Request) bool
}

func newFake(t *testing.T, hook func(w http.ResponseWriter, r *http.Request) bool) *fake {
	t.Helper()
	f := &fake{hook: hook}
	real := memory.New(memory.Logger(log.New(io.Discard, "", 0)))
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.got = append(f.got, request{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Range")})
		hook := f.hook
		f.mu.Unlock()
		if hook == nil || !hook(w, r) {
			real.ServeHTTP(w, r)
		}
	}))
	f.host = strings.TrimPrefix(f.URL, "http://")
	t.Cleanup(f.Close)
	return f
}

// on sets the hook and clears the recorded requests.
func (f *fake) on(hook func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook, f.got = hook, nil
}

// count returns how many requests had the method and a path that contains part.
func (f *fake) count(method, part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.got {
		if r.method == method && strings.Contains(r.path, part) {
			n++
		}
	}
	return n
}

func (f *fake) requests() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]request(nil), f.got...)
}

type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

// keys are credentials by host.
type keys map[string]authn.AuthConfig

func (k keys) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if c, ok := k[r.RegistryStr()]; ok {
		return authn.FromConfig(c), nil
	}
	return authn.Anonymous, nil
}

// newTestClient returns a client that hardly waits.
func newTestClient(t *testing.T, change ...func(*Options)) *Client {
	t.Helper()
	opt := Options{
		Keychain: anonymous{}, Backoff: func(int) time.Duration { return 0 }, MaxWait: time.Millisecond,
		Stall: 10 * time.Second,
	}
	for _, f := range change {
		f(&opt)
	}
	return New(opt)
}

func newImage(t *testing.T, layers int64) v1.Image {
	t.Helper()
	image, err := random.Image(5000, layers)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// put stores an image in a fake with another client than the one under test.
func put(t *testing.T, f *fake, ref string, image v1.Image) v1.Hash {
	t.Helper()
	parsed, err := name.ParseReference(f.host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(parsed, image); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func layerDesc(t *testing.T, image v1.Image) (ocispecs.Descriptor, []byte) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return descOf(t, layers[0])
}

// asError fails the test unless err is an *Error.
func asError(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("want a *Error, got %T: %v", err, err)
	}
	return e
}

// contains fails the test unless the text of err contains all parts.
func contains(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the message lacks %q:\n%s", part, err)
		}
	}
}
