package embedded

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
	"github.com/bakebuild/bake/planner"
)

// TestRemoteCacheAttributes brings what a tar of an image does not say, and what only overlayfs knows.
func TestRemoteCacheAttributes(t *testing.T) {
	v := newTraveller(t, nil)
	at := time.Unix(1700000000, 123456789)
	draft, err := v.store.NewLayer()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(draft.FS+"/d", 0o751); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(draft.FS+"/d/f", []byte("x"), 0o4755); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{"": 0o711, "/d/f": 0o755 | os.ModeSetuid} {
		if err := os.Chmod(draft.FS+path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/d/f", "/d", ""} {
		if err := os.Chtimes(draft.FS+path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	id := key.Of([]key.Part{{Name: "a", Digest: "layer"}})
	if err := draft.Commit(id, cache.LayerMeta{Size: 1, Files: 2}); err != nil {
		t.Fatal(err)
	}
	from := v.build()
	o := &cacheExport{b: from}
	l, err := o.exportLayer(t.Context(), exportedLayer{layer: layer{id: id, ran: true}, whole: true})
	if err != nil {
		t.Fatal(err)
	}
	origin := &source{Source: &storeSource{o}}
	v.newCache()
	to := v.build()
	if err := to.unpackImported(t.Context(), importedLayer{l, id, origin}); err != nil {
		t.Fatal(err)
	}
	dir, ok := v.store.LayerDir(id)
	if !ok {
		t.Fatal("the layer is not there")
	}
	for path, mode := range map[string]os.FileMode{"": os.ModeDir | 0o711, "/d": os.ModeDir | 0o751,
		"/d/f": 0o755 | os.ModeSetuid} {
		info, err := os.Stat(dir + path)
		if err != nil || info.Mode() != mode || !info.ModTime().Equal(at) {
			t.Errorf("%q: %v, %v", path, info, err)
		}
	}
	// Paths of another layer are noticed.
	other := l
	other.ID, other.DiffID = key.Of(nil), id
	if err := to.unpackImported(t.Context(), importedLayer{other, key.Of(nil), origin}); err == nil {
		t.Error("a layer with another diff id is taken")
	}
}

// build is a run of no steps.
func (v *traveller) build() *build {
	v.t.Helper()
	b, err := v.engine.newBuild(&planner.Graph{}, executor.Options{})
	if err != nil {
		v.t.Fatal(err)
	}
	b.imports = v.engine.newImports(v.t.Context(), b.graph, executor.Options{})
	return b
}

// storeSource is a cache of another machine that was never exported.
type storeSource struct{ out *cacheExport }

// Index, Open, String and Close make a remotecache.Source of it.
func (s *storeSource) Index(context.Context, func() (*os.File, error)) (*remotecache.Catalog, error) {
	return nil, nil
}
func (s *storeSource) Open(ctx context.Context, b remotecache.Blob) (io.ReadCloser, error) {
	return s.out.openBlob(ctx, b)
}
func (s *storeSource) String() string { return "another machine" }
func (s *storeSource) Close() error   { return nil }
