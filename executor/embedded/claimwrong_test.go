package embedded

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// TestWrongEntries: entries that are impossible for their steps are a warning and a miss, are not stored, and a stored
// one is a miss too.
func TestWrongEntries(t *testing.T) {
	layerOf := func(e *remotecache.Entry) cache.Part { return e.Outputs[0].Parts[len(e.Outputs[0].Parts)-1] }
	for name, change := range map[string]func(e *remotecache.Entry){
		"input": func(e *remotecache.Entry) { e.Outputs[0].Parts[0] = cache.Part{Input: 3} },
		"input of no key part": func(e *remotecache.Entry) {
			e.Outputs[0].Parts = []cache.Part{{Input: 0, Index: 7}, layerOf(e)}
		},
		"no outputs":       func(e *remotecache.Entry) { e.Outputs = nil },
		"more outputs":     func(e *remotecache.Entry) { e.Outputs = append(e.Outputs, e.Outputs[0]) },
		"no layer":         func(e *remotecache.Entry) { e.Outputs[0].Parts = e.Outputs[0].Parts[:1] },
		"layer first":      func(e *remotecache.Entry) { slices.Reverse(e.Outputs[0].Parts) },
		"without parent":   func(e *remotecache.Entry) { e.Outputs[0].Parts = e.Outputs[0].Parts[1:] },
		"unknown layer":    func(e *remotecache.Entry) { serveLayer(e, digest.FromString("none")) },
		"layers of others": func(e *remotecache.Entry) { e.Outputs[0].Parts = []cache.Part{layerOf(e), layerOf(e)} },
	} {
		t.Run(name, func(t *testing.T) {
			v := newTraveller(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
			v.must("copy /a.txt /b.txt")
			f := v.forge()
			change(f.entry(`"/b.txt"]`))
			bad := f.entry(`"/b.txt"]`).Entry
			dir := f.write()
			v.move(local("src", dir), nil)
			v.must("copy /a.txt /b.txt")
			if name != "unknown layer" {
				v.wantWarning("wrong entry")
			}
			v.use(nil, nil)
			v.mustRun("copy /a.txt /b.txt")
			// A version that did not check it stored it as its own.
			bad.Outputs = slices.Clone(bad.Outputs)
			v.newCache()
			v.mustRun("copy /a.txt /b.txt")
			b := v.begin()
			for i := range b.nodes {
				if _, err := b.Lookup(t.Context(), i); err != nil {
					t.Fatal(err)
				}
			}
			own := *b.nodes[len(b.nodes)-1].entry
			own.Outputs = bad.Outputs
			if err := v.store.Put(&own); err != nil {
				t.Fatal(err)
			}
			v.mustRun("copy /a.txt /b.txt")
			v.must()
		})
	}
}

// TestClaimedMount: a cache mount that a cache fills serves only builds that name it, and so does what ran with it.
func TestClaimedMount(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a.txt /a\nRUN " +
		"--mount=type=cache,id=one,target=/m [\"copy\", \"/m/lib\", \"/out\"]\n", "a.txt": "a"})
	fill := func(text string) {
		t.Helper()
		m, err := v.store.CacheMount(t.Context(), "/one", "shared", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Release()
		if err := os.WriteFile(filepath.Join(m.Dir, "lib"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := m.Filled(); err != nil {
			t.Fatal(err)
		}
	}
	fill("evil")
	v.must("copy /m/lib /out")
	dir := v.forge().write()
	v.move(local("src", dir), nil)
	v.write(map[string]string{"a.txt": "b"})
	v.must("copy /m/lib /out")
	v.must()
	if got := v.built("/out"); got != "evil" {
		t.Errorf("with the cache: %q", got)
	}
	fill("good")
	v.use(nil, nil)
	v.must("copy /m/lib /out")
	if got := v.built("/out"); got != "good" {
		t.Errorf("without the cache: %q", got)
	}
	v.use(local("src", dir), nil)
	v.must()
	if got := v.built("/out"); got != "good" {
		t.Errorf("a mount of this machine comes first, but: %q", got)
	}
	v.noWarnings()
}

// TestClaimedPacking: a cache lies about the blob of another compression. No image has it.
func TestClaimedPacking(t *testing.T) {
	for _, compression := range []string{"gzip", "zstd"} {
		t.Run(compression, func(t *testing.T) { testClaimedPacking(t, compression) })
	}
}

func testClaimedPacking(t *testing.T, compression string) {
	v := newTraveller(t, stagedFiles)
	tarball, other := filepath.Join(t.TempDir(), "out.tar"), filepath.Join(t.TempDir(), "other.tar")
	output := config.Attrs{"type": "oci", "dest": tarball, "compression": compression}
	v.targets[0].Outputs = []config.Attrs{output, {"type": "oci", "dest": other, "compression": "zstd"}}
	first := v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	f := v.forge()
	last := f.index.Layers[len(f.index.Layers)-1]
	for i := range f.index.Layers {
		l := &f.index.Layers[i]
		l.Packed = slices.Clone(l.Packed)
		for k := range l.Packed { // each says that it is the blob of the last layer, with its own diff id
			l.Packed[k].Digest, l.Packed[k].Size = last.Blob.Digest, last.Blob.Size
		}
	}
	dir := f.write()
	v.targets[0].Outputs = []config.Attrs{output}
	v.move(local("src", dir), nil)
	ran, report, err := v.run()
	if err != nil {
		t.Fatal(err)
	}
	if compression == "zstd" { // the step of the blob in question ran again
		v.wantWarning("its step runs again")
	}
	v.noWarnings()
	checkDiffIDs(t, tarball)
	for i, l := range report.Images[0].Platforms[0].Layers { // a tar has the bytes, so all were read
		if l.Unread || len(ran) == 0 && l.Claim != dir {
			t.Errorf("layer %d: %+v", i, l)
		}
	}
	if report.Images[0].Digest != first.Images[0].Digest && len(ran) == 0 {
		t.Errorf("the image is %s, not %s", report.Images[0].Digest, first.Images[0].Digest)
	}
}
