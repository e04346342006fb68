package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// In the text of a fuzzed index these stand for the digests and sizes of the two fuzzed blobs, so that changed blobs
// are still those that the index names.
const (
	pathsDigest, pathsSize = "sha256:PATHS", "1111111111"
	layerDigest, layerSize = "sha256:LAYER", "2222222222"
)

// fuzzedSource is a remote cache of fuzzed bytes: an index, and two blobs.
type fuzzedSource struct{ index, paths, layer []byte }

func (s *fuzzedSource) Index(
	_ context.Context, scratch func() (*os.File, error),
) (*remotecache.Catalog, error) {
	text := string(s.index)
	for name, value := range map[string]string{
		pathsDigest: digest.FromBytes(s.paths).String(), pathsSize: strconv.Itoa(len(s.paths)),
		layerDigest: digest.FromBytes(s.layer).String(), layerSize: strconv.Itoa(len(s.layer)),
	} {
		text = strings.ReplaceAll(text, name, value)
	}
	raw, err := remotecache.Compress([]byte(text))
	if err != nil {
		return nil, err
	}
	return remotecache.NewCatalog(bytes.NewReader(raw), scratch)
}

func (s *fuzzedSource) Open(_ context.Context, b remotecache.Blob) (io.ReadCloser, error) {
	for _, raw := range [][]byte{s.paths, s.layer} {
		if digest.FromBytes(raw) == b.Digest && int64(len(raw)) == b.Size {
			return io.NopCloser(bytes.NewReader(raw)), nil
		}
	}
	return nil, &remotecache.MissingError{Digest: b.Digest, Where: "the test"}
}

func (s *fuzzedSource) String() string { return "fuzzed" }
func (s *fuzzedSource) Close() error   { return nil }

const fuzzedDockerfile = `FROM scratch AS build
COPY a.txt /a.txt
RUN ["copy", "/a.txt", "/b.txt"]
FROM scratch
RUN --mount=type=cache,id=m,target=/m ["write", "/first", "1"]
COPY --from=build /b.txt /b.txt
RUN ["copy", "/b.txt", "/c.txt"]
`

// seed returns the parts of an honest cache.
func seed(f *testing.F) (index, paths, layer []byte) {
	v := newTraveller(f, map[string]string{"Dockerfile": fuzzedDockerfile, "a.txt": "one"})
	v.must("copy /a.txt /b.txt", "write /first 1", "copy /b.txt /c.txt")
	o := v.forge()
	one := o.index.Layers[0]
	read := func(b remotecache.Blob) []byte {
		r, err := o.openBlob(f.Context(), b)
		if err != nil {
			f.Fatal(err)
		}
		defer r.Close()
		raw, err := io.ReadAll(r)
		if err != nil {
			f.Fatal(err)
		}
		return raw
	}
	paths, layer = read(*one.Paths), read(*one.Blob)
	o.index.Version = 1
	text, err := json.Marshal(&o.index)
	if err != nil {
		f.Fatal(err)
	}
	s := string(text)
	for _, l := range o.index.Layers { // each layer is the first
		for name, b := range map[string]remotecache.Blob{pathsDigest: *l.Paths, layerDigest: *l.Blob} {
			s = strings.ReplaceAll(s, b.Digest.String(), name)
		}
		s = strings.ReplaceAll(s, `"Size":`+strconv.FormatInt(l.Blob.Size, 10)+",", `"Size":`+layerSize+",")
		s = strings.ReplaceAll(s, `"Size":`+strconv.FormatInt(l.Paths.Size, 10)+",", `"Size":`+pathsSize+",")
		s = strings.ReplaceAll(s, l.DiffID.String(), one.DiffID.String())
	}
	return []byte(s), paths, layer
}

// FuzzImport imports fuzzed caches: the build never fails, takes bounded memory, stores nothing under an id that the
// cache chose, and keeps what the cache claims apart; a later build without the cache has the right files.
func FuzzImport(f *testing.F) {
	index, paths, layer := seed(f)
	f.Add(index, paths, layer)
	f.Add([]byte(`{"Version":1,"Entries":null,"Layers":[]}`), paths, layer)
	f.Fuzz(func(t *testing.T, index, paths, layer []byte) {
		v := newTraveller(t, map[string]string{"Dockerfile": fuzzedDockerfile, "a.txt": "one"})
		v.use(local("src", "/fuzzed"), nil)
		v.engine.open = func(remotecache.Place) remotecache.Source { return &fuzzedSource{index, paths, layer} }
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, _, err := v.run(); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 256<<20 {
			t.Errorf("%d MB were allocated", used>>20)
		}
		checkImported(t, v, string(index))
		v.engine.open = nil
		v.caches.From = map[string][]config.Attrs{}
		v.engine = v.engine.WithCaches(v.caches)
		if _, _, err := v.run(); err != nil {
			t.Fatal(err)
		}
		if got := v.built("/c.txt"); got != "one" {
			t.Errorf("without the cache, c.txt is %q", got)
		}
	})
}

// checkImported checks what a build stored that read a hostile cache.
func checkImported(t testing.TB, v *traveller, index string) {
	t.Helper()
	dir := v.store.Dir()
	claimed := map[string]bool{}
	walk := func(pattern string, use func(path string)) {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range all {
			use(path)
		}
	}
	walk("layers/*", func(path string) {
		id := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(path))
		meta, _ := v.store.LayerMeta(id)
		for _, p := range meta.Packed {
			for _, list := range meta.Packed {
				l := remotecache.Layer{
					DiffID: p.DiffID, Encoding: p.Encoding, Blob: &remotecache.Blob{Digest: p.Digest, Size: p.Size},
					Paths: &remotecache.Blob{Digest: list.Digest, Size: list.Size},
				}
				if list.Encoding == encodingPaths && contentID(&l) == id {
					claimed[filepath.Base(path)] = true
					checkTar(t, v.store, p)
				}
			}
		}
		if id != emptyLayer && strings.Contains(index, id.String()) && !claimed[filepath.Base(path)] {
			t.Errorf("layer %s has an id that the cache chose", id)
		}
	})
	walk("entries/*/*", func(path string) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for id := range claimed {
			if strings.Contains(string(raw), id) {
				t.Errorf("the entry %s of this machine has the claimed layer %s", path, id)
			}
		}
	})
	for _, origin := range v.store.ClaimOrigins() {
		if origin != "local /fuzzed" {
			t.Errorf("there are claims of %q", origin)
		}
	}
}

// checkTar checks that the blob of an imported layer has the diff id that is recorded.
func checkTar(t testing.TB, s *cache.Store, p cache.Packed) {
	t.Helper()
	f, err := os.Open(s.BlobPath(p.Digest))
	r, err := uncompressed(f, err)
	if err != nil {
		t.Error(err)
		return
	}
	defer r.Close()
	if got, err := digest.FromReader(r); err != nil || got != p.DiffID {
		t.Errorf("the blob of a layer has the diff id %s, not %s: %v", got, p.DiffID, err)
	}
}
