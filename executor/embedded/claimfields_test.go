package embedded

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// TestClaimedMediaType: a cache says that its layers have a media type that no layer has. It reaches no image, no store
// and no other cache, neither with that cache nor with an honest one after it.
func TestClaimedMediaType(t *testing.T) {
	const evil = "application/x-evil"
	v := newTraveller(t, stagedFiles)
	tarball := filepath.Join(t.TempDir(), "out.tar")
	v.targets[0].Outputs = []config.Attrs{{"type": "oci", "dest": tarball}}
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	honest := v.forge().write()
	f := v.forge()
	for i := range f.index.Layers {
		l := &f.index.Layers[i]
		l.Blob.MediaType, l.Paths.MediaType = evil, evil
		for k := range l.Packed {
			l.Packed[k].MediaType = evil
		}
	}
	forged := f.write()
	v.move(local("src", forged), nil)
	for _, from := range []string{forged, honest} {
		again := t.TempDir()
		v.use(local("src", from), local("dest", again, "mode", "max"))
		if _, _, err := v.run(); err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(tarball); err != nil || bytes.Contains(raw, []byte(evil)) {
			t.Errorf("with %s, the image has the media type %s, %v", from, evil, err)
		}
		raw, err := os.ReadFile(filepath.Join(again, "index.zst"))
		if err == nil {
			raw, err = unpackedText(raw)
		}
		if err != nil || bytes.Contains(raw, []byte(evil)) || !bytes.Contains(raw, []byte("tar+gzip")) {
			t.Errorf("with %s, an export has the media type %s, %v", from, evil, err)
		}
	}
	v.noWarnings()
}

// TestClaimedEncoding: the blob of a layer has another compression than its encoding says. It is a warning, and the
// step runs.
func TestClaimedEncoding(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
	v.must("copy /a.txt /b.txt")
	f := v.forge()
	for i := range f.index.Layers {
		l := &f.index.Layers[i]
		l.Encoding = strings.Replace(l.Encoding, "gzip", "zstd", 1)
	}
	dir := f.write()
	v.targets[0].Outputs = []config.Attrs{{
		"type": "oci", "dest": filepath.Join(t.TempDir(), "out.tar"), "compression": "zstd",
	}}
	v.move(local("src", dir), nil)
	v.mustRun("copy /a.txt /b.txt")
	v.wantWarning("but the compression of its blob is gzip")
}

// TestClaimedBlobs: layers whose blobs differ in what is recorded of them have different ids, so no cache decides what
// is recorded for a layer of another one.
func TestClaimedBlobs(t *testing.T) {
	layer := func() *remotecache.Layer {
		return &remotecache.Layer{
			ID: nameOf("1"), DiffID: nameOf("2"), Encoding: "gzip, times kept",
			Blob:  &remotecache.Blob{Digest: nameOf("3"), Size: 3},
			Paths: &remotecache.Blob{Digest: nameOf("4"), Size: 4},
		}
	}
	want := importedID(layer(), remotecache.Origin{})
	for name, change := range map[string]func(*remotecache.Layer){
		"diff id":       func(l *remotecache.Layer) { l.DiffID = nameOf("5") },
		"encoding":      func(l *remotecache.Layer) { l.Encoding = "gzip-9, times kept" },
		"blob":          func(l *remotecache.Layer) { l.Blob.Digest = nameOf("5") },
		"size":          func(l *remotecache.Layer) { l.Blob.Size++ },
		"paths":         func(l *remotecache.Layer) { l.Paths.Digest = nameOf("5") },
		"size of paths": func(l *remotecache.Layer) { l.Paths.Size++ },
	} {
		l := layer()
		if change(l); importedID(l, remotecache.Origin{}) == want {
			t.Errorf("another %s does not change the id", name)
		}
	}
}

// unpackedText returns the text of an index.
func unpackedText(raw []byte) (text []byte, err error) {
	err = remotecache.Decompress(bytes.NewReader(raw), 1<<20, func(r io.Reader) (err error) {
		text, err = io.ReadAll(r)
		return err
	})
	return text, err
}
