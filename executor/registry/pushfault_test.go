package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

func TestPushRetriesUpload(t *testing.T) {
	f := newFake(t, nil)
	var failed atomic.Int32
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && failed.Add(1) <= 2 {
			_, _ = io.CopyN(io.Discard, r.Body, 100)
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	image := newImage(t, 1)
	if err := newTestClient(t).Push(context.Background(), []PushImage{{Refs: []string{f.host + "/x:1"}, Image: image}},
		nil); err != nil {
		t.Fatal(err)
	}
	if _, err := newTestClient(t).Resolve(context.Background(), f.host+"/x:1", amd64); err != nil {
		t.Error(err)
	}
}

func TestPushMovesNoTagWhenOneImageFails(t *testing.T) {
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v2/bad/") {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"errors":[{"code":"DENIED","message":"read only"}]}`)
			return true
		}
		return false
	})
	err := newTestClient(t).Push(context.Background(), []PushImage{
		{Refs: []string{f.host + "/good:1"}, Image: newImage(t, 1)},
		{Refs: []string{f.host + "/bad:1"}, Image: newImage(t, 1)},
	}, nil)
	contains(t, asError(t, err), f.host+"/bad", "403", "read only", "docker login")
	if n := f.count("PUT", "/manifests/"); n != 0 {
		t.Errorf("%d manifests were sent", n)
	}
}

func TestPushMountsFromBase(t *testing.T) {
	f := newFake(t, nil)
	base := newImage(t, 2)
	put(t, f, "base:1", base)
	c := newTestClient(t)
	if _, err := c.Resolve(context.Background(), f.host+"/base:1", amd64); err != nil {
		t.Fatal(err)
	}
	// The test registry shares blobs between repositories. The hook makes it miss and mount them.
	var mounted, missed atomic.Int32
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/blobs/"):
			missed.Add(1)
			w.WriteHeader(http.StatusNotFound)
			return true
		case r.Method == http.MethodPost && r.URL.Query().Get("mount") != "":
			if from := r.URL.Query().Get("from"); from == "base" && strings.HasPrefix(r.URL.Path, "/v2/app/") ||
				from == "app" {
				mounted.Add(1)
				w.WriteHeader(http.StatusCreated)
				return true
			}
		}
		return false
	})
	refs := []string{f.host + "/app:1", f.host + "/app:2", f.host + "/copy:1"}
	if err := c.Push(context.Background(), []PushImage{{Refs: refs, Image: base}}, nil); err != nil {
		t.Fatal(err)
	}
	// Two layers and the config, into two repositories: only the config's bytes are sent, once.
	if n := f.count("PATCH", ""); n != 1 || mounted.Load() != 5 || missed.Load() != 6 {
		t.Errorf("%d sent, %d mounted, %d missed; want 1, 5, 6", n, mounted.Load(), missed.Load())
	}
}
