package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
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

// token returns a token for a repository.
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

// TestRealRegistries tries the client on real registries, with and without authentication, behind a faulty proxy.
// Wrong content must never be accepted, no other host may receive a secret, every wait must be bounded, and whatever
// can succeed must succeed.
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
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // reached only if something hangs
	defer cancel()
	pullErr := pullAll(ctx, client(trial.pulls), f.host+"/seed/image@"+pinned.String(), image)
	if (pullErr == nil) != trial.pulls {
		t.Errorf("pull: %v, want success %v", pullErr, trial.pulls)
	}
	if trial.check != nil {
		trial.check(t, &w, pullErr)
	}
	sent := newImage(t, 2)
	pushErr := client(trial.pushes).Push(ctx, []PushImage{{Refs: []string{f.host + "/" + repo + ":1"}, Image: sent}},
		nil)
	if (pushErr == nil) != trial.pushes {
		t.Errorf("push: %v, want success %v", pushErr, trial.pushes)
	}
	if ctx.Err() != nil {
		t.Error("an unbounded wait")
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
	if other.leaked != nil {
		t.Errorf("secrets reached another host: %v", other.leaked)
	}
	f.breaks(nil, nil, nil)
	f.holds(t, repo+":1", sent, pushErr == nil)
}

// pullAll reads an image as an engine does, and compares all bytes.
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
			return fmt.Errorf("layer %d has wrong content, undetected", k)
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

// store stores an image with another client than the one under test.
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

// holds checks with another client that a tag names the complete image or, if the push failed, that the tag does not
// exist.
func (f *front) holds(t *testing.T, ref string, want v1.Image, pushed bool) {
	t.Helper()
	parsed, err := name.ParseReference(f.host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(parsed, f.remote())
	if !pushed {
		if err == nil {
			t.Error("the push failed, but the tag exists")
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
