package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

// tokens is a token service on the registry's own host. A token is valid for the repositories in its scope.
type tokens struct {
	f      *fake
	mu     sync.Mutex
	issued map[string]string // scope by token
	asked  map[string]int    // by scope
	count  int
}

func withTokens(t *testing.T) *tokens {
	s := &tokens{issued: map[string]string{}, asked: map[string]int{}}
	s.f = newFake(t, s.answer)
	return s
}

func (s *tokens) answer(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == "/token" {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hunter22" {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		scope := strings.Join(r.URL.Query()["scope"], " ")
		s.asked[scope]++
		s.count++
		token := fmt.Sprintf("token-%d", s.count)
		s.issued[token] = scope
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
		return true
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	scope, good := s.issued[token]
	path, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
	path, _, _ = strings.Cut(path, "/manifests/")
	needs := "repository:" + path + ":"
	if write := r.Method != http.MethodGet && r.Method != http.MethodHead; !good || !strings.Contains(scope, needs) ||
		write && !strings.Contains(scope, needs+"push,pull") {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="s"`, s.f.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	return false
}

// TestPushOfUnchangedImages counts the requests for fifty images that the registry has: one each, and one greeting.
func TestPushOfUnchangedImages(t *testing.T) {
	const images = 50
	s := withTokens(t)
	list := make([]PushImage, images)
	for i := range list {
		list[i] = PushImage{Refs: []string{fmt.Sprintf("%s/team/app%d:1", s.f.host, i)}, Image: newImage(t, 1)}
	}
	key := withKey(s.f, authn.AuthConfig{Username: "me", Password: "hunter22"})
	if err := newTestClient(t, key).Push(context.Background(), list, nil); err != nil {
		t.Fatal(err)
	}
	s.f.on(s.answer)
	clear(s.asked)
	if err := newTestClient(t, key).Push(context.Background(), list, nil); err != nil {
		t.Fatal(err)
	}
	greetings, heads, grants := 0, 0, 0
	for _, r := range s.f.requests() {
		switch {
		case r.method == "GET" && r.path == "/v2/":
			greetings++
		case r.method == "HEAD" && strings.HasSuffix(r.path, "/manifests/1"):
			heads++
		case r.path == "/token":
			grants++
		default:
			t.Errorf("%s %s was asked too", r.method, r.path)
		}
	}
	if greetings != 1 || heads != images || grants != images {
		t.Errorf("%d greetings, %d manifests, %d tokens; want 1, %d and one for each of %d scopes", greetings, heads,
			grants, images, images)
	}
	for scope, n := range s.asked {
		if n != 1 {
			t.Errorf("%d tokens were requested for %s", n, scope)
		}
	}
}

// TestPushNewTagOfOldImage checks that no blobs are compared if the image exists under another name.
func TestPushNewTagOfOldImage(t *testing.T) {
	f := newFake(t, nil)
	image := newImage(t, 4)
	put(t, f, "x:1", image)
	f.on(nil)
	refs := []string{f.host + "/x:1", f.host + "/x:2", f.host + "/x:3"}
	if err := newTestClient(t).Push(context.Background(), []PushImage{{Refs: refs, Image: image}}, nil); err != nil {
		t.Fatal(err)
	}
	if blobs, puts := f.count("", "/blobs/"), f.count("PUT", "/manifests/"); blobs != 0 || puts != 2 {
		t.Errorf("%d requests for blobs, %d manifests sent; want 0 and the 2 new tags", blobs, puts)
	}
	for _, r := range f.requests() {
		if strings.Contains(r.path, "/blobs/") {
			t.Errorf("%s %s", r.method, r.path)
		}
	}
	f.on(nil)
	other := newImage(t, 1)
	if err := newTestClient(t).Push(context.Background(), []PushImage{{Refs: refs[:1], Image: other, ByDigest: true}},
		nil); err != nil {
		t.Fatal(err)
	}
	if n := f.count("PUT", "/manifests/1"); n != 0 {
		t.Error("a push by digest moved a tag")
	}
}

// TestPushReportsBlobs checks that progress is reported up to the last byte of each blob sent, and only for those.
func TestPushReportsBlobs(t *testing.T) {
	f := newFake(t, nil)
	image := newImage(t, 2)
	var mu sync.Mutex
	seen := map[string]int64{}
	push := func() {
		err := newTestClient(t).Push(context.Background(), []PushImage{{Refs: []string{f.host + "/x:1"}, Image: image}},
			func(blob string, sent, size int64) {
				mu.Lock()
				defer mu.Unlock()
				if sent > size || sent < seen[blob] {
					t.Errorf("%s: %d of %d after %d", blob, sent, size, seen[blob])
				}
				seen[blob] = sent
			})
		if err != nil {
			t.Fatal(err)
		}
	}
	push()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		digest, _ := l.Digest()
		if size, _ := l.Size(); seen[digest.String()] != size {
			t.Errorf("%s: %d of %d bytes were reported", digest, seen[digest.String()], size)
		}
	}
	clear(seen)
	if push(); len(seen) != 0 {
		t.Errorf("reported of what is there: %v", seen)
	}
}

// TestPushIsNotFooled checks that a contradictory or wrong answer does not count as having the image.
func TestPushIsNotFooled(t *testing.T) {
	f := newFake(t, nil)
	image := newImage(t, 1)
	digest := put(t, f, "other:1", image)
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Docker-Content-Digest", digest.String())
			w.Header().Set("Content-Length", "7") // of something else
			return true
		}
		return false
	})
	if err := newTestClient(t).Push(context.Background(), []PushImage{{Refs: []string{f.host + "/x:1"}, Image: image}},
		nil); err != nil {
		t.Fatal(err)
	}
	if n := f.count("PUT", "/v2/x/manifests/1"); n != 1 {
		t.Errorf("the tag was sent %d times", n)
	}
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Docker-Content-Digest", someDigest)
			w.WriteHeader(http.StatusCreated)
			return true
		}
		return false
	})
	err := newTestClient(t).Push(context.Background(), []PushImage{{Refs: []string{f.host + "/y:1"}, Image: image}},
		nil)
	contains(t, asError(t, err), "the registry received "+someDigest, f.host+"/y")
}

// TestTokenEndsWithinUpload checks that a blob is sent again from its first byte if the token expires during the
// upload.
func TestTokenEndsWithinUpload(t *testing.T) {
	s := withTokens(t)
	var ended atomic.Bool
	s.f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && ended.CompareAndSwap(false, true) {
			s.mu.Lock()
			clear(s.issued)
			s.mu.Unlock()
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return s.answer(w, r)
	})
	c := newTestClient(t, withKey(s.f, authn.AuthConfig{Username: "me", Password: "hunter22"}))
	if err := c.Push(context.Background(), []PushImage{{Refs: []string{s.f.host + "/x:1"}, Image: newImage(t, 2)}},
		nil); err != nil {
		t.Fatal(err)
	}
	if n := s.asked["repository:x:push,pull"]; n < 2 || n > 4 {
		t.Errorf("%d tokens were requested, want one more for each upload in progress", n)
	}
}

// TestMountsAskForTheirSources checks that a token for an upload includes pull access to the source of a mount.
func TestMountsAskForTheirSources(t *testing.T) {
	s := withTokens(t)
	image := newImage(t, 1)
	c := newTestClient(t, withKey(s.f, authn.AuthConfig{Username: "me", Password: "hunter22"}))
	refs := []string{s.f.host + "/a:1", s.f.host + "/b:1"}
	if err := c.Push(context.Background(), []PushImage{{Refs: refs, Image: image}}, nil); err != nil {
		t.Fatal(err)
	}
	if n := s.asked["repository:b:push,pull repository:a:pull"]; n != 1 {
		t.Errorf("tokens were requested for %v", s.asked)
	}
}
