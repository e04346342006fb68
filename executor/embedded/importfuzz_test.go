package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// fuzzedLayer is the list of paths and the blob of a layer.
type fuzzedLayer struct{ paths, blob []byte }

// names returns the texts that stand for the digests and sizes of the layer's blobs in the text of a fuzzed index, so
// that changed blobs are still those that the index names.
func (fuzzedLayer) names(i int) (pathsDigest, pathsSize, blobDigest, blobSize string) {
	number := strconv.Itoa(i)
	return "sha256:PATHS" + number, "11111111" + number, "sha256:LAYER" + number, "22222222" + number
}

// fuzzedSource is a remote cache of fuzzed bytes: an index, and the blobs of two layers.
type fuzzedSource struct {
	index  []byte
	layers [2]fuzzedLayer
}

func (s *fuzzedSource) Index(
	_ context.Context, scratch func() (*os.File, error),
) (*remotecache.Catalog, error) {
	text := string(s.index)
	for i, l := range s.layers {
		pathsDigest, pathsSize, blobDigest, blobSize := l.names(i)
		text = strings.NewReplacer(
			pathsDigest, digest.FromBytes(l.paths).String(), pathsSize, strconv.Itoa(len(l.paths)),
			blobDigest, digest.FromBytes(l.blob).String(), blobSize, strconv.Itoa(len(l.blob)),
		).Replace(text)
	}
	raw, err := remotecache.Compress([]byte(text))
	if err != nil {
		return nil, err
	}
	return remotecache.NewCatalog(bytes.NewReader(raw), scratch)
}

func (s *fuzzedSource) Open(_ context.Context, b remotecache.Blob) (io.ReadCloser, error) {
	for _, l := range s.layers {
		for _, raw := range [][]byte{l.paths, l.blob} {
			if digest.FromBytes(raw) == b.Digest && int64(len(raw)) == b.Size {
				return io.NopCloser(bytes.NewReader(raw)), nil
			}
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

// seed returns an honest cache, except that each layer is one of two: the first of the build, and one of a file with
// attributes.
func seed(f *testing.F) *fuzzedSource {
	v := newTraveller(f, map[string]string{"Dockerfile": fuzzedDockerfile, "a.txt": "one"})
	v.must("copy /a.txt /b.txt", "write /first 1", "copy /b.txt /c.txt")
	o := v.forge()
	pair := []remotecache.Layer{o.index.Layers[0], o.attributes()}
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
	s := &fuzzedSource{}
	for i, l := range pair {
		s.layers[i] = fuzzedLayer{read(*l.Paths), read(*l.Blob)}
	}
	o.index.Version = 1
	text, err := json.Marshal(&o.index)
	if err != nil {
		f.Fatal(err)
	}
	all := string(text)
	for i, l := range o.index.Layers {
		pathsDigest, pathsSize, blobDigest, blobSize := s.layers[i%2].names(i % 2)
		for name, b := range map[string]remotecache.Blob{pathsDigest: *l.Paths, blobDigest: *l.Blob} {
			all = strings.ReplaceAll(all, b.Digest.String(), name)
		}
		all = strings.ReplaceAll(all, `"Size":`+strconv.FormatInt(l.Blob.Size, 10)+",", `"Size":`+blobSize+",")
		all = strings.ReplaceAll(all, `"Size":`+strconv.FormatInt(l.Paths.Size, 10)+",", `"Size":`+pathsSize+",")
		all = strings.ReplaceAll(all, l.DiffID.String(), pair[i%2].DiffID.String())
	}
	s.index = []byte(all)
	return s
}

// attributes returns a layer of a file with attributes, one of which only the list of paths has.
func (f *forger) attributes() remotecache.Layer {
	f.t.Helper()
	const id = digest.Digest("sha256:7777777777777777777777777777777777777777777777777777777777777777")
	draft, err := f.b.store.NewLayer()
	if err != nil {
		f.t.Fatal(err)
	}
	path := filepath.Join(draft.FS, "b.txt")
	err = errors.Join(os.WriteFile(path, []byte("two"), 0o644), unix.Setxattr(path, "user.note", []byte("x"), 0),
		draft.Commit(id, cache.LayerMeta{Size: 3, Files: 1}))
	if err != nil {
		f.t.Fatal(err)
	}
	l, err := f.exportLayer(f.t.Context(), exportedLayer{layer: layer{id: id, ran: true}, whole: true})
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

// FuzzImport imports fuzzed caches of two origins, the second of which is honest except for its layers: the build never
// fails, takes bounded memory, stores nothing under an id that the caches chose, and keeps what they claim apart; a
// later build without the caches has the right files.
func FuzzImport(f *testing.F) {
	s := seed(f)
	one, two := s.layers[0], s.layers[1]
	f.Add(s.index, one.paths, one.blob, two.paths, two.blob)
	f.Add(s.index, two.paths, one.blob, one.paths, two.blob)
	f.Add([]byte(`{"Version":1,"Entries":null,"Layers":[]}`), one.paths, one.blob, two.paths, two.blob)
	f.Fuzz(func(t *testing.T, index, paths, blob, otherPaths, otherBlob []byte) {
		v := newTraveller(t, map[string]string{"Dockerfile": fuzzedDockerfile, "a.txt": "one"})
		v.use2("/fuzzed", "/second")
		v.engine.open = func(p remotecache.Place) remotecache.Source {
			if p.Dir == "/second" {
				return s
			}
			return &fuzzedSource{index, [2]fuzzedLayer{{paths, blob}, {otherPaths, otherBlob}}}
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, _, err := v.run(); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 256<<20 {
			t.Errorf("%d MB were allocated", used>>20)
		}
		checkImported(t, v, string(index)+string(s.index))
		v.engine.open = nil
		v.caches.From = map[string][]config.Attrs{}
		v.engine = v.engine.WithCaches(v.caches)
		if _, _, err := v.run(); err != nil {
			t.Fatal(err)
		}
		if got := v.built("/c.txt"); got != "one" {
			t.Errorf("without the caches, c.txt is %q", got)
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
		if origin != "local /fuzzed" && origin != "local /second" {
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
