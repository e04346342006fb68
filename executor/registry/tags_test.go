package registry

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestHead checks that one request returns the digest of a tag, even if only the manifest has it.
func TestHead(t *testing.T) {
	f := newFake(t, nil)
	want := put(t, f, "a:1", newImage(t, 1))
	c := newTestClient(t)
	f.on(nil)
	got, err := c.Head(t.Context(), f.host+"/a:1")
	if err != nil || got.String() != want.String() || f.count("GET", "/manifests/") != 0 ||
		f.count("HEAD", "/manifests/1") != 1 {
		t.Errorf("got %v %v, requests %v", got, err, f.requests())
	}
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusOK)
			return true
		}
		return false
	})
	if got, err := c.Head(t.Context(), f.host+"/a:1"); err != nil || got.String() != want.String() {
		t.Errorf("without the header: %v %v", got, err)
	}
	f.on(nil)
	if _, err := c.Head(t.Context(), f.host+"/a:none"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
}

// TestTags checks that all pages are read, from the same server only and bounded, and that invalid tags are skipped.
func TestTags(t *testing.T) {
	var elsewhere bool
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case !strings.HasSuffix(r.URL.Path, "/tags/list"):
			return false
		case strings.Contains(r.URL.Path, "/big/"):
			_, _ = w.Write([]byte(`{"tags":["` + strings.Repeat("a", maxTagPage) + `"]}`))
		case strings.Contains(r.URL.Path, "/endless/"):
			w.Header().Set("Link", `</v2/endless/tags/list?last=x>; rel="next"`)
			_, _ = w.Write([]byte(`{"tags":["x"]}`))
		case r.URL.Query().Get("last") == "":
			host := ""
			if elsewhere {
				host = "http://127.0.0.2:1"
			}
			w.Header().Set("Link", `<`+host+`/v2/a/tags/list?last=b>; rel="next"`)
			_, _ = w.Write([]byte(`{"tags":["b","a","<script>"]}`))
		default:
			_, _ = w.Write([]byte(`{"tags":["c","b"]}`))
		}
		return true
	})
	c := newTestClient(t)
	got, err := c.Tags(t.Context(), f.host+"/a")
	if d := cmp.Diff([]string{"a", "b", "c"}, got); err != nil || d != "" {
		t.Error(err, d)
	}
	if got, err := c.Tags(t.Context(), f.host+"/endless"); err != nil || len(got) != 1 ||
		f.count("GET", "/endless/") != maxTagPages {
		t.Errorf("without an end: %v %v after %d requests", got, err, f.count("GET", "/endless/"))
	}
	if _, err := c.Tags(t.Context(), f.host+"/big"); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("big: %v", err)
	}
	elsewhere = true
	if _, err := c.Tags(t.Context(), f.host+"/a"); err == nil || !strings.Contains(err.Error(), "not the same server") {
		t.Errorf("elsewhere: %v", err)
	}
}

// TestCopy checks that an index is copied once, with all its images and the same digest.
func TestCopy(t *testing.T) {
	from, to := newFake(t, nil), newFake(t, nil)
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: newImage(t, 2),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: newImage(t, 1),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	ref, err := name.ParseReference(from.host + "/a:1")
	if err == nil {
		err = remote.WriteIndex(ref, index)
	}
	if err != nil {
		t.Fatal(err)
	}
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t)
	for range 2 {
		if err := c.Copy(t.Context(), from.host+"/a@"+d.String(), to.host+"/mirror/a:keep"); err != nil {
			t.Fatal(err)
		}
	}
	copied, err := name.ParseReference(to.host + "/mirror/a:keep")
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(copied)
	if err != nil {
		t.Fatal(err)
	}
	if have, err := got.Digest(); err != nil || have != d {
		t.Errorf("copied %v %v, want %v", have, err, d)
	}
	readAllLayers(t, got)
	if n := to.count("POST", "/blobs/uploads/"); n != 5 {
		t.Errorf("%d uploads of 5 blobs", n)
	}
	if n := from.count("GET", "/blobs/"); n != 5 {
		t.Errorf("%d requests for 5 blobs", n)
	}
}

// readAllLayers opens every layer of an index of two images.
func readAllLayers(t *testing.T, got v1.ImageIndex) {
	t.Helper()
	m, err := got.IndexManifest()
	if err != nil || len(m.Manifests) != 2 {
		t.Fatal(m, err)
	}
	for _, child := range m.Manifests {
		image, err := got.Image(child.Digest)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			if r, err := l.Compressed(); err != nil {
				t.Error(err)
			} else if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestOffline checks that an offline client sends no requests.
func TestOffline(t *testing.T) {
	f := newFake(t, nil)
	image := newImage(t, 1)
	put(t, f, "a:1", image)
	f.on(nil)
	c := newTestClient(t, func(o *Options) { o.Offline = true })
	_, err := c.Resolve(t.Context(), f.host+"/a:1", amd64)
	if err == nil || !strings.Contains(err.Error(), "--offline is set") {
		t.Errorf("got %v", err)
	}
	if err := c.Push(t.Context(), []PushImage{{Refs: []string{f.host + "/a:2"}, Image: image}}, nil); err == nil ||
		!strings.Contains(err.Error(), "--offline is set") {
		t.Errorf("a push: %v", err)
	}
	if got := f.requests(); len(got) != 0 {
		t.Errorf("it asked %v", got)
	}
}
