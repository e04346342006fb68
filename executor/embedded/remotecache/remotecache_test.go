package remotecache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
)

// sample is a cache of a few layers, and what opens its blobs.
func sample(texts ...string) Export {
	content := map[digest.Digest]string{}
	blob := func(text, mediaType string) *Blob {
		b := &Blob{Digest: digest.FromString(text), Size: int64(len(text)), MediaType: mediaType}
		content[b.Digest] = text
		return b
	}
	x := &Index{}
	for _, text := range texts {
		id := digest.FromString("layer of " + text)
		x.Layers = append(x.Layers, Layer{ID: id, DiffID: id, Encoding: "gzip",
			Blob: blob(text, ocispecs.MediaTypeImageLayerGzip), Paths: blob("paths of "+text, MediaPaths)})
		inputs := []key.Part{{Name: "text", Digest: text}}
		key := key.Of(inputs)
		x.Entries = append(x.Entries, Entry{Entry: cache.Entry{
			ID: key, Key: key, Step: id, Inputs: inputs, Outputs: []cache.Output{{Parts: []cache.Part{{Layer: id}}}},
		}})
	}
	return Export{Index: x, Open: func(_ context.Context, b Blob) (io.ReadCloser, error) {
		text, ok := content[b.Digest]
		if !ok {
			return nil, os.ErrNotExist
		}
		return io.NopCloser(bytes.NewReader([]byte(text))), nil
	}}
}

// TestDirShared exports to one directory from several sides at once while others read it: every reader sees a cache of
// which each blob is whole or missing, and what a killed export left is gone.
func TestDirShared(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, prefixTemp+"dead")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.txt")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		e := sample("a", "b", string(rune('c'+i)))
		wg.Go(func() {
			if err := (&Dir{Path: dir}).Export(t.Context(), e); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { readDir(t, dir, false) })
	}
	wg.Wait()
	if n := readDir(t, dir, true); n != 6 {
		t.Errorf("%d blobs, want those of the last export alone", n)
	}
	if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
		t.Error("a file of a killed export is still there")
	}
	if _, err := os.Lstat(other); err != nil {
		t.Error("a file of others is gone")
	}
}

// readDir reads a cache and counts the blobs that are there; with all a missing one is a fault.
func readDir(t *testing.T, dir string, all bool) (found int) {
	d := &Dir{Path: dir}
	defer d.Close()
	x, err := d.Index(t.Context(), scratch(t))
	if err != nil {
		t.Error(err)
	}
	if x == nil {
		return 0
	}
	defer x.Close()
	for _, b := range x.allBlobs(t) {
		r, err := d.Open(t.Context(), b)
		if err != nil {
			if all {
				t.Error(err)
			}
			continue
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Error(err)
		}
		found++
	}
	return found
}

// badIndexes are changes after which an index is rejected, by what is wrong.
func badIndexes() map[string]func(*Index) {
	return map[string]func(*Index){
		"key":      func(x *Index) { x.Entries[0].Inputs[0].Digest = "other" },
		"layer":    func(x *Index) { x.Layers[0].ID = "sha256:../../x" },
		"blob":     func(x *Index) { x.Layers[0].Blob.Digest = "none" },
		"size":     func(x *Index) { x.Layers[0].Blob.Size = -1 },
		"no paths": func(x *Index) { x.Layers[0].Paths = nil },
		"alias":    func(x *Index) { x.Entries[0].Aliases = []digest.Digest{"x"} },
		"name":     func(x *Index) { x.Entries[0].Name = strings.Repeat("x", maxName+1) },
		"selection": func(x *Index) {
			x.Entries[0].Selections = []cache.Selection{{Name: strings.Repeat("x", maxPart+1)}}
		},
		"digest of a selection": func(x *Index) {
			x.Entries[0].Selections = []cache.Selection{{Digest: digest.Digest(strings.Repeat("x", maxShort+1))}}
		},
		"key part": func(x *Index) {
			e := &x.Entries[0]
			e.Inputs = []key.Part{{Name: "env X", Digest: strings.Repeat("x", maxPart+1)}}
			e.Key = key.Of(e.Inputs)
		},
		"value":      func(x *Index) { x.Entries[0].Inputs[0].Value = strings.Repeat("x", maxPart+1) },
		"look-up":    func(x *Index) { x.Entries[0].Lookups = []cache.Lookup{{Path: strings.Repeat("x", maxName+1)}} },
		"media type": func(x *Index) { x.Layers[0].Blob.MediaType = strings.Repeat("x", maxShort+1) },
		"packed layer": func(x *Index) {
			id := x.Layers[0].ID
			x.Layers[0].Packed = []cache.Packed{{Digest: id, DiffID: id, Encoding: strings.Repeat("x", maxShort+1)}}
		},
		"id of a mount": func(x *Index) {
			m := Mount{ID: strings.Repeat("x", maxName+1), Layer: x.Layers[0]}
			x.Mounts = []Mount{m}
		},
		"encoding": func(x *Index) { x.Layers[0].Encoding = "base" },
		"packed":   func(x *Index) { x.Layers[0].Packed = []cache.Packed{{Digest: "x"}} },
		"mount":    func(x *Index) { x.Mounts = []Mount{{ID: "m"}} },
		"path index without a blob": func(x *Index) {
			x.Layers[0].Blob, x.Layers[0].Paths.Digest = nil, "x"
		},
		"diff id without a blob": func(x *Index) { x.Layers[0].Blob, x.Layers[0].DiffID = nil, "x" },
	}
}

func TestIndexChecks(t *testing.T) {
	for name, change := range badIndexes() {
		good := sample("a").Index
		raw, err := good.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := NewCatalog(bytes.NewReader(raw), scratch(t))
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range good.Entries {
			if d := cmp.Diff(&good.Entries[i], again.Entry(e.Key, anyEntry)); d != "" {
				t.Fatal(d)
			}
		}
		for i, l := range good.Layers {
			if d := cmp.Diff(&good.Layers[i], again.Layer(l.ID)); d != "" {
				t.Fatal(d)
			}
		}
		change(good)
		if raw, err = good.encode(); err != nil {
			t.Fatal(err)
		}
		if _, err := NewCatalog(bytes.NewReader(raw), scratch(t)); err == nil {
			t.Errorf("an index with a wrong %s is taken", name)
		}
	}
}

// TestShorten: an export cuts a long name between two characters, and what it writes can be read.
func TestShorten(t *testing.T) {
	for _, name := range []string{"RUN make", strings.Repeat("x", maxShownName), strings.Repeat("€", maxShownName)} {
		e := sample("a").Index.Entries[0]
		e.Name = name
		e.Shorten()
		short := len(name) <= maxShownName
		if !strings.HasPrefix(name, e.Name) || !utf8.ValidString(e.Name) || len(e.Name) > maxShownName ||
			short && e.Name != name || !short && len(e.Name) < maxShownName-4 || e.check() != nil {
			t.Errorf("%d bytes became %d", len(name), len(e.Name))
		}
	}
}

// scratch creates files without names.
func scratch(t testing.TB) func() (*os.File, error) {
	return func() (*os.File, error) {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			return nil, err
		}
		return f, os.Remove(f.Name())
	}
}

// allBlobs returns the blobs of all layers.
func (c *Catalog) allBlobs(t testing.TB) (all []Blob) {
	for _, r := range c.tables[byLayer] {
		raw, err := c.texts.read(c.spans[r.span])
		l := new(Layer)
		if err == nil {
			err = json.Unmarshal(raw, l)
		}
		if err != nil {
			t.Error(err)
		}
		if l.Blob != nil {
			all = append(all, *l.Blob, *l.Paths)
		}
	}
	return all
}

func TestMountsOf(t *testing.T) {
	for text, want := range map[string][]string{"true": {"/a", "//root/.cache"}, "false": nil, "a": {"/a"},
		"/root/.cache; b": {"//root/.cache"}} {
		p, _, err := Parse(config.Attrs{"type": "local", "dest": "x", "mounts": text}, true, "/work")
		if err != nil || p.Dir != "/work/x" {
			t.Fatal(p, err)
		}
		var got []string
		for _, id := range []string{"/a", "//root/.cache"} {
			if p.Mounts.Has(id) {
				got = append(got, id)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("mounts=%s: %s", text, d)
		}
	}
}

// FuzzIndex and FuzzPack try that damaged files are an error or harmless, and bounded.
func FuzzIndex(f *testing.F) {
	raw, err := sample("a", "b").Index.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		x, err := NewCatalog(bytes.NewReader(raw), scratch(t))
		if err != nil {
			return
		}
		for _, b := range x.allBlobs(t) {
			if !b.ok() {
				t.Errorf("blob %+v is taken", b)
			}
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzPack(f *testing.F) {
	e := sample("a", "b")
	file, err := os.Create(filepath.Join(f.TempDir(), "x"))
	if err != nil {
		f.Fatal(err)
	}
	layers, _, _ := e.Index.blobs()
	if err := writePack(f.Context(), file, layers, e.Open); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(file.Name())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(filepath.Join(dir, "p"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		p, err := openPack(root, "p", 1000)
		if err != nil {
			return
		}
		defer p.close()
		for _, b := range p.table {
			if r, ok := p.open(Blob{Digest: b.Digest, Size: b.Size}); ok {
				if got, err := io.ReadAll(r); err == nil && digest.FromBytes(got) != b.Digest &&
					b.Digest.Algorithm() == digest.SHA256 {
					t.Error("wrong bytes are taken")
				}
			}
		}
	})
}

// TestDirCancelled: the index of a directory is not read on after the end of the context.
func TestDirCancelled(t *testing.T) {
	dir := &Dir{Path: t.TempDir()}
	if err := dir.Export(t.Context(), Export{Index: &Index{}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the build stops")
	cancel(why)
	if _, err := dir.Index(ctx, scratch(t)); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}
