package registry

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestRegistryWithoutHead: a registry that answers HEAD with 405 or 501 gets GET. A push sends every blob once, a
// second push sends none, and a tag is resolved; HEAD is tried once for each client.
func TestRegistryWithoutHead(t *testing.T) {
	for _, status := range []int{http.StatusMethodNotAllowed, http.StatusNotImplemented} {
		for _, redirects := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, redirects %v", status, redirects), func(t *testing.T) {
				refuse := func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodHead {
						w.WriteHeader(status)
						return true
					}
					return false
				}
				f := newFake(t, refuse)
				image := newImage(t, 2)
				ref := f.host + "/a:1"
				push := func(tag string) {
					t.Helper()
					images := []PushImage{{Refs: []string{f.host + "/a:" + tag}, Image: image}}
					if err := newTestClient(t).Push(context.Background(), images, nil); err != nil {
						t.Fatal(err)
					}
				}
				push("1")
				if got, want := len(f.requests()), 1; f.count("HEAD", "") != want {
					t.Errorf("%d requests with HEAD of %d, want %d", f.count("HEAD", ""), got, want)
				}
				f.on(func(w http.ResponseWriter, r *http.Request) bool {
					if redirects && strings.Contains(r.URL.Path, "/blobs/sha256") && r.Method == http.MethodGet {
						http.Redirect(w, r, "http://127.0.0.1:1/gone", http.StatusTemporaryRedirect)
						return true
					}
					return refuse(w, r)
				})
				push("2")
				if n := f.count("PATCH", "") + f.count("PUT", "/blobs/"); n != 0 {
					t.Errorf("the second push sent %d blobs", n)
				}
				digest, err := newTestClient(t).Head(context.Background(), ref)
				want, _ := image.Digest()
				if err != nil || digest.String() != want.String() {
					t.Errorf("%s, %v; want %s", digest, err, want)
				}
			})
		}
	}
}
