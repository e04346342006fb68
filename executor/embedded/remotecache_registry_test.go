package embedded

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/registry"
)

// TestRemoteCacheDroppedByRegistry has a registry lose a layer: it is made again, comes to the same blob, and the next
// export sends that though the cache that is there names it.
func TestRemoteCacheDroppedByRegistry(t *testing.T) {
	var mu sync.Mutex
	dropped := map[string]bool{}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if r.Method == http.MethodPut {
			delete(dropped, r.URL.Query().Get("digest"))
		}
		gone := strings.Contains(r.URL.Path, "/blobs/sha256:") && dropped[path.Base(r.URL.Path)]
		mu.Unlock()
		if gone {
			http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"gone"}]}`, http.StatusNotFound)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/cache:main"
	cached := config.Attrs{"type": "registry", "ref": ref}
	v := newTraveller(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a.txt /a.txt\n", "a.txt": "one"})
	v.targets[0].Outputs = []config.Attrs{{"type": "oci", "dest": filepath.Join(t.TempDir(), "out.tar")}}
	v.client = registry.New(registry.Options{})
	v.newCache()
	v.use(nil, cached)
	v.must()
	there, err := v.client.Artifact(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	for _, l := range there.Manifest.Layers[1:] { // all but the index
		dropped[l.Digest.String()] = true
	}
	mu.Unlock()
	v.move(cached, cached)
	v.mustRun()
	v.wantWarning("its step runs again")
	v.move(cached, cached)
	v.must()
	v.noWarnings()
}

// counts are the requests of a registry, by method and kind.
type counts struct {
	mu  sync.Mutex
	all map[string]int
}

func (c *counts) add(r *http.Request) {
	kind := "other"
	for _, k := range []string{"manifests", "blobs"} {
		if strings.Contains(r.URL.Path, "/"+k+"/") {
			kind = k
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[r.Method+" "+kind]++
}

// take gives the counts since the last call.
func (c *counts) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = map[string]int{}
	return all
}

func TestRemoteCacheInRegistry(t *testing.T) {
	c := &counts{all: map[string]int{}}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		c.add(r)
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/cache:main"
	v := newTraveller(t, stagedFiles)
	place := config.Attrs{"type": "registry", "ref": ref}
	to := config.Attrs{"type": "registry", "ref": ref, "mode": "max"}
	newClient := func() { v.client = registry.New(registry.Options{}); v.newCache() }
	newClient()
	v.use(place, to)
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	c.take()
	v.must()
	if got := c.take(); got["POST blobs"]+got["PUT blobs"]+got["PUT manifests"]+got["HEAD blobs"]+
		got["GET blobs"] > 0 || got["GET manifests"] != 1 {
		t.Errorf("an unchanged cache is exported with %v", got)
	}

	newClient()
	v.move(place, nil)
	c.take()
	v.mustRun()
	if got := c.take(); got["GET blobs"] != 1 || got["GET manifests"] != 1 {
		t.Errorf("a build without output on a new machine requested %v, want one manifest and the index", got)
	}
	// One changed file: the new layer and what says where it is are sent, and no layer is fetched.
	v.move(place, to)
	c.take()
	v.write(map[string]string{"last.txt": "changed"})
	v.mustRun()
	got := c.take()
	if got["PUT manifests"] != 2 || got["GET blobs"] > 6 || v.layersHere() != 1 {
		t.Errorf("a changed file cost %v, and %d layers are here", got, v.layersHere())
	}
	if sent := got["PUT blobs"]; sent > 4 { // the index, the layer, its paths, and the config again
		t.Errorf("%d blobs were sent: %v", sent, got)
	}
	v.move(place, nil)
	v.must()
	v.noWarnings()
}
