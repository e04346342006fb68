package embedded

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// forger writes caches that lie.
type forger struct {
	*cacheExport
	t testing.TB
}

// forge collects the cache of what the site has built; write changes it and writes it.
func (v *traveller) forge() *forger {
	v.t.Helper()
	v.use(nil, local("dest", v.t.TempDir(), "mode", "max", "mounts", "true"))
	b := v.begin()
	for i := range b.nodes {
		if _, err := v.finish(b, i); err != nil {
			v.t.Fatal(err)
		}
	}
	o := b.cacheExports()[0]
	if err := errors.Join(o.collect(v.t.Context()), o.exportMounts(v.t.Context(), o.place.Mounts)); err != nil {
		v.t.Fatal(err)
	}
	return &forger{o, v.t}
}

// write writes the cache to a new directory.
func (f *forger) write() string {
	f.t.Helper()
	dir := f.t.TempDir()
	err := (&remotecache.Dir{Path: dir}).Export(f.t.Context(), remotecache.Export{
		Index: &f.index, Open: func(ctx context.Context, b remotecache.Blob) (io.ReadCloser, error) {
			return f.openBlob(ctx, b)
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return dir
}

// entry returns the entry of the step whose name ends with a text.
func (f *forger) entry(suffix string) *remotecache.Entry {
	f.t.Helper()
	i := slices.IndexFunc(f.index.Entries, func(e remotecache.Entry) bool { return strings.HasSuffix(e.Name, suffix) })
	if i < 0 {
		f.t.Fatalf("no entry %q", suffix)
	}
	return &f.index.Entries[i]
}

// layer adds a layer of a file under the name id.
func (f *forger) layer(id digest.Digest, path, text string) { f.layerOf(id, path, text, time.Now()) }

// layerOf is layer with the time of the file.
func (f *forger) layerOf(id digest.Digest, path, text string, at time.Time) {
	f.t.Helper()
	draft, err := f.b.store.NewLayer()
	if err != nil {
		f.t.Fatal(err)
	}
	path = filepath.Join(draft.FS, path)
	err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644),
		os.Chtimes(path, at, at))
	if err != nil {
		f.t.Fatal(err)
	}
	own := digest.FromString("evil " + path + text)
	if err := draft.Commit(own, cache.LayerMeta{Size: int64(len(text)), Files: 1}); err != nil {
		f.t.Fatal(err)
	}
	l, err := f.exportLayer(f.t.Context(), exportedLayer{layer: layer{id: own, ran: true}, whole: true})
	if err != nil {
		f.t.Fatal(err)
	}
	l.ID = id
	f.index.Layers = append(f.index.Layers, l)
}

// serveLayer makes an entry serve a layer.
func serveLayer(e *remotecache.Entry, id digest.Digest) {
	parts := e.Outputs[0].Parts
	parts[len(parts)-1].Layer = id
}

// nameOf returns a name for a forged layer.
func nameOf(digit string) digest.Digest { return digest.Digest("sha256:" + strings.Repeat(digit, 64)) }

// checkDiffIDs compares the layers of the image in an OCI archive with the diff ids in its config.
func checkDiffIDs(t *testing.T, tarball string) {
	t.Helper()
	file, err := os.Open(tarball)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	blobs := map[string][]byte{}
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if blobs[path.Base(h.Name)], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	decode := func(raw []byte, into any) {
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatal(err)
		}
	}
	var index ocispecs.Index
	decode(blobs["index.json"], &index)
	var m ocispecs.Manifest
	decode(blobs[index.Manifests[0].Digest.Encoded()], &m)
	var config ocispecs.Image
	decode(blobs[m.Config.Digest.Encoded()], &config)
	for i, l := range m.Layers {
		r, err := uncompressed(io.NopCloser(strings.NewReader(string(blobs[l.Digest.Encoded()]))), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := digest.FromReader(r); err != nil || got != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d has the diff id %s, the config says %s, %v", i, got, config.RootFS.DiffIDs[i], err)
		}
	}
}

// finish serves a step without running a command, and reports whether it is served.
func (v *traveller) finish(b *build, i int) (found bool, err error) {
	found, err = b.Lookup(v.t.Context(), i)
	if err == nil && !found {
		var release func()
		if found, release, err = b.Prepare(v.t.Context(), i); release != nil {
			release()
		}
	}
	if _, ok := b.nodes[i].op.(*httpStep); ok && err == nil && !found { // it asks the server
		err = b.Run(v.t.Context(), i)
		found = err == nil
	}
	return found, err
}

// built reads a file of the image, as a build without further steps has it.
func (v *traveller) built(path string) string {
	v.t.Helper()
	b := v.begin()
	for i := range b.nodes {
		found, err := v.finish(b, i)
		if err != nil || !found {
			v.t.Fatalf("step %d: %t, %v", i, found, err)
		}
	}
	c, err := b.of(b.graph.Images[0].Root).chain(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	dirs, err := b.dirs(v.t.Context(), c)
	if err != nil {
		v.t.Fatal(err)
	}
	text, err := readFirst(dirs, path)
	if err != nil {
		v.t.Fatal(err)
	}
	return text
}
