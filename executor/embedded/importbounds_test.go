package embedded

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// TestPathListMemory: several layers whose small lists of paths unpack to a hundred megabytes each take little memory.
func TestPathListMemory(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
	v.must("copy /a.txt /b.txt")
	f := v.forge()
	random := make([]byte, 1200<<10)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	raw, err := remotecache.Compress(append(append([]byte("bake-paths 1\n\x01"), random...), make([]byte, 110<<20)...))
	if err != nil {
		t.Fatal(err)
	}
	paths, err := f.b.keepSmall(raw, remotecache.MediaPaths)
	if err != nil {
		t.Fatal(err)
	}
	l := f.index.Layers[0]
	l.Paths = paths
	to, from := v.build(), &source{Source: &storeSource{f.cacheExport}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			id := digest.FromString(fmt.Sprint(i))
			if err := to.unpackImported(t.Context(), importedLayer{l, id, from}); err == nil {
				t.Error("a damaged list of paths was taken")
			}
		})
	}
	all.Wait()
	runtime.ReadMemStats(&after)
	if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 128 {
		t.Errorf("%d MB were allocated", used)
	}
}

// TestBombOfLayer: the blob of a layer unpacks to much more than its tar. An image that only copies the blob reads no
// more of it than one that unpacks it.
func TestBombOfLayer(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
	tarball := filepath.Join(t.TempDir(), "out.tar")
	v.targets[0].Outputs = []config.Attrs{{"type": "oci", "dest": tarball}}
	v.must("copy /a.txt /b.txt")
	f := v.forge()
	var raw bytes.Buffer
	z := gzip.NewWriter(&raw)
	zeros := make([]byte, 1<<20)
	for range 200 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	blob, err := f.b.keepSmall(raw.Bytes(), layers.Compression{}.MediaType())
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.index.Layers {
		l := &f.index.Layers[i]
		if l.Blob != nil {
			l.Blob, l.DiffID = blob, digest.FromBytes(bytes.Repeat(zeros, 200))
		}
	}
	v.move(local("src", f.write()), nil)
	if ran, _, err := v.run(); err != nil || len(ran) != 1 {
		t.Errorf("ran %q, %v", ran, err)
	}
	v.wantWarning("bytes after the end of the tar")
	checkDiffIDs(t, tarball)
}

// manySteps is a Dockerfile of six commands.
const manySteps = "FROM scratch\nCOPY a.txt /a\nRUN [\"count\", \"/1\"]\nRUN [\"count\", \"/2\"]\n" +
	"RUN [\"count\", \"/3\"]\nRUN [\"count\", \"/4\"]\nRUN [\"count\", \"/5\"]\nRUN [\"count\", \"/6\"]\n"

// TestManyWrongLayers: a cache offers sixty wrong layers for each step. After a few it is not used any more, and the
// other cache of the build is.
func TestManyWrongLayers(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": manySteps, "a.txt": "a"})
	counts := []string{"count /1", "count /2", "count /3", "count /4", "count /5", "count /6"}
	v.must(counts...)
	honest := v.forge().write()
	f := v.forge()
	known := map[digest.Digest]remotecache.Layer{}
	for _, l := range f.index.Layers {
		known[l.ID] = l
	}
	for _, e := range f.index.Entries {
		for i := range 60 {
			if len(e.Outputs) == 0 || !strings.Contains(e.Name, "RUN") {
				continue
			}
			one := e
			one.ID = digest.FromString(fmt.Sprint(e.ID, i))
			one.Outputs = deepOutputs(e.Outputs)
			wrong := known[e.Outputs[0].Parts[len(e.Outputs[0].Parts)-1].Layer]
			wrong.ID, wrong.DiffID = one.ID, one.ID
			f.index.Layers = append(f.index.Layers, wrong)
			serveLayer(&one, wrong.ID)
			f.index.Entries = append([]remotecache.Entry{one}, f.index.Entries...)
		}
	}
	evil := f.write()
	more := map[string]string{"Dockerfile": manySteps + "RUN [\"copy\", \"/6\", \"/7\"]\n"}

	v.move(local("src", evil), nil)
	v.write(more)
	ran, _, err := v.run()
	if err != nil || len(ran) != 7 {
		t.Errorf("ran %q, %v", ran, err)
	}
	if len(v.warned) > maxUnusable+2 {
		t.Errorf("%d warnings: %q", len(v.warned), v.warned)
	}
	v.wantWarning("is not used any more")

	v.move(nil, nil)
	v.write(more)
	v.use2(evil, honest)
	ran, _, err = v.run()
	if err != nil || len(ran) != 1 || ran[0] != "copy /6 /7" {
		t.Errorf("with an honest cache, ran %q, %v", ran, err)
	}
	v.wantWarning("is not used any more")
}

// TestUnreadableCacheComesFirst: a cache that could not be read has not said that it lacks a step. When it can be read,
// it comes before a cache that is named after it.
func TestUnreadableCacheComesFirst(t *testing.T) {
	const dockerfile = "FROM scratch\nCOPY a.txt /a\nRUN [\"count\", \"/x\"]\n"
	v := newTraveller(t, map[string]string{"Dockerfile": dockerfile, "a.txt": "a"})
	v.must("count /x")
	second := v.forge().write()
	v.newCache()
	v.runner.ran = []string{"another"}
	if _, _, err := v.run(); err != nil {
		t.Fatal(err)
	}
	good := v.forge().write()
	first := t.TempDir()
	if err := os.WriteFile(filepath.Join(first, "index.zst"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	v.move(nil, nil)
	v.use2(first, second)
	v.must()
	if got := v.built("/x"); got != "1" {
		t.Errorf("from the second cache: %q", got)
	}
	if err := errors.Join(os.RemoveAll(first), os.CopyFS(first, os.DirFS(good))); err != nil {
		t.Fatal(err)
	}
	v.use2(first, second)
	v.must()
	if got := v.built("/x"); got != "2" {
		t.Errorf("from the first cache: %q", got)
	}
}

// deepOutputs copies the outputs of an entry.
func deepOutputs(from []cache.Output) []cache.Output {
	outputs := slices.Clone(from)
	for i := range outputs {
		outputs[i].Parts = slices.Clone(outputs[i].Parts)
	}
	return outputs
}
