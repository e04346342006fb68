package executor_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
)

func TestExportStore(t *testing.T) {
	res, s := export(t, t.TempDir(), built(t, "api", "amd64"), built(t, "web", "amd64"))
	var names []string
	for _, i := range s.images {
		names = append(names, i.Name)
		if digest.FromBytes(s.blobs[i.Digest]) != i.Digest {
			t.Errorf("no manifest for %s", i.Name)
		}
	}
	want := []string{"docker.io/library/api:latest", "example.com/api:v1"}
	if diff := cmp.Diff(want, names[:2]); diff != "" {
		t.Error(diff)
	}
	if len(res) != 2 || res[0].Digest != s.images[0].Digest || res[0].ConfigDigest == "" {
		t.Errorf("results %+v", res)
	}
}

func TestExportOCI(t *testing.T) {
	d := t.TempDir()
	res, _ := export(t, d,
		built(t, "api", "amd64", config.Attrs{"type": "oci", "dest": "out/api.tar"},
			config.Attrs{"type": "oci", "dest": "dir", "tar": "false"}))
	skopeo(t, "oci-archive:"+filepath.Join(d, "out/api.tar")+":latest", string(res[0].Digest))
	idx, err := layout.ImageIndexFromPath(filepath.Join(d, "dir"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 2 || m.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "latest" ||
		m.Manifests[0].Digest.String() != string(res[0].Digest) {
		t.Errorf("index %+v", m)
	}
	// Again, from other objects: the same bytes.
	first := read(t, filepath.Join(d, "out/api.tar"))
	export(t, d, built(t, "api", "amd64", config.Attrs{"type": "oci", "dest": "out/api.tar"}))
	if !bytes.Equal(first, read(t, filepath.Join(d, "out/api.tar"))) {
		t.Error("two exports differ")
	}
}

func TestExportDockerTar(t *testing.T) {
	d := t.TempDir()
	export(t, d, built(t, "api", "amd64", config.Attrs{"type": "docker", "dest": "api.tar"}))
	img, err := tarball.ImageFromPath(filepath.Join(d, "api.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	skopeo(t, "docker-archive:"+filepath.Join(d, "api.tar")+":api:latest", "")
}

func TestExportSeveralPlatforms(t *testing.T) {
	d := t.TempDir()
	out := []config.Attrs{{"type": "oci", "dest": "dir", "tar": "false"}, {"type": "local", "dest": "files"},
		{"type": "tar", "dest": "f.tar"}}
	amd, arm := built(t, "api", "amd64", out...), built(t, "api", "arm64", out...)
	for _, b := range []executor.Built{amd, arm} {
		b.Image.MultiPlatform = true
		b.Image.Annotations = []string{"index:a=1", "manifest[linux/arm64]:b=2"}
	}
	res, _ := export(t, d, amd, arm)
	idx, err := layout.ImageIndexFromPath(filepath.Join(d, "dir"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
	h, _ := v1.NewHash(string(res[0].Digest))
	inner, err := idx.ImageIndex(h)
	if err != nil {
		t.Fatal(err)
	}
	m, err := inner.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.Annotations["a"] != "1" || len(m.Manifests) != 2 || m.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("index %+v", m)
	}
	img, err := inner.Image(m.Manifests[1].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if man, _ := img.Manifest(); man.Annotations["b"] != "2" {
		t.Errorf("manifest annotations %v", man.Annotations)
	}
	if got := string(read(t, filepath.Join(d, "files/linux_arm64/bin/sh"))); got != "elf arm64" {
		t.Errorf("local file: %q", got)
	}
	if !bytes.Contains(read(t, filepath.Join(d, "f.tar")), []byte("linux_amd64/bin/sh")) {
		t.Error("no platform folders in the tar")
	}
}

func TestExportLocal(t *testing.T) {
	d := t.TempDir()
	mustWrite(t, filepath.Join(d, "out/kept"), "mine")
	mustWrite(t, filepath.Join(d, "out/made"), "old")
	mustWrite(t, filepath.Join(d, "outside/sh"), "safe")
	if err := os.Symlink("../outside", filepath.Join(d, "out/bin")); err != nil {
		t.Fatal(err)
	}
	export(t, d, built(t, "api", "amd64", config.Attrs{"type": "local", "dest": "out"}))
	for name, want := range map[string]string{"out/kept": "mine", "out/made": "api", "out/link": "elf amd64",
		"outside/sh": "safe"} {
		if got := string(read(t, filepath.Join(d, name))); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	entries, err := os.ReadDir(filepath.Join(d, "out"))
	if err != nil || len(entries) != 5 {
		t.Errorf("entries %v %v", entries, err)
	}
}

// A folder in the way is named, and stays with what is in it.
func TestExportLocalInTheWay(t *testing.T) {
	d := t.TempDir()
	mustWrite(t, filepath.Join(d, "out/made/mine"), "mine")
	b := built(t, "api", "amd64", config.Attrs{"type": "local", "dest": "out"})
	_, err := executor.Export(context.Background(), []executor.Built{b}, executor.ExportOptions{Dir: d})
	if want := filepath.Join(d, "out/made") + " is a directory, which a file cannot replace"; err == nil ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("err = %v, want %q", err, want)
	}
	if got := string(read(t, filepath.Join(d, "out/made/mine"))); got != "mine" {
		t.Errorf("what was there is %q", got)
	}
}

func TestExportStdout(t *testing.T) {
	var b bytes.Buffer
	_, err := executor.Export(context.Background(),
		[]executor.Built{built(t, "api", "amd64", config.Attrs{"type": "tar", "dest": "-"})},
		executor.ExportOptions{Stdout: &b})
	if err != nil || !bytes.Contains(b.Bytes(), []byte("bin/sh")) {
		t.Errorf("%v, %d bytes", err, b.Len())
	}
}

// Nothing becomes visible when one of several outputs fails.
func TestExportFailureLeavesOldOutputs(t *testing.T) {
	d := t.TempDir()
	mustWrite(t, filepath.Join(d, "a.tar"), "old a")
	mustWrite(t, filepath.Join(d, "dir/index.json"), "old index")
	good := built(t, "good", "amd64", config.Attrs{"type": "oci", "dest": "a.tar"},
		config.Attrs{"type": "local", "dest": "files"},
		config.Attrs{"type": "oci", "tar": "false", "dest": "dir"}, config.Attrs{"type": "image"},
		config.Attrs{"type": "registry"})
	bad := built(t, "bad", "amd64", config.Attrs{"type": "tar", "dest": "b.tar"})
	bad.Files = func(_ context.Context, _ executor.LayerEncoding, w io.Writer) error {
		w.Write([]byte("half"))
		return errors.New("disk full")
	}
	s, p := &memStore{blobs: map[digest.Digest][]byte{}}, &memPusher{}
	_, err := executor.Export(context.Background(), []executor.Built{good, bad},
		executor.ExportOptions{Dir: d, Store: s, Pusher: p})
	if err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Fatalf("err = %v", err)
	}
	if got := string(read(t, filepath.Join(d, "a.tar"))); got != "old a" {
		t.Errorf("a.tar = %q", got)
	}
	if got := string(read(t, filepath.Join(d, "dir/index.json"))); got != "old index" {
		t.Errorf("index.json = %q", got)
	}
	if len(s.images) > 0 || p.pushed > 0 {
		t.Errorf("stored %v, pushed %d", s.images, p.pushed)
	}
	left, _ := filepath.Glob(filepath.Join(d, "*"))
	hidden, _ := filepath.Glob(filepath.Join(d, ".*"))
	files, _ := os.ReadDir(filepath.Join(d, "files"))
	if len(left) != 3 || len(hidden) != 0 || len(files) != 0 {
		t.Errorf("left over: %v %v %v", left, hidden, files)
	}
}

func TestExportFindsDamagedBlob(t *testing.T) {
	b := built(t, "api", "amd64", config.Attrs{"type": "oci", "dest": "a.tar"})
	good := layerOf(t, map[string]string{"a": "1"})
	b.Layers = func(context.Context, executor.LayerEncoding) ([]v1.Layer, error) {
		return []v1.Layer{damaged{good}}, nil
	}
	_, err := executor.Export(context.Background(), []executor.Built{b}, executor.ExportOptions{Dir: t.TempDir()})
	var corrupt *executor.CorruptError
	if !errors.As(err, &corrupt) {
		t.Errorf("err = %v, want a CorruptError", err)
	}
	if want := "bake cache check --repair"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("err = %v, which names no %s", err, want)
	}
}

type damaged struct{ v1.Layer }

func (d damaged) Compressed() (io.ReadCloser, error) {
	n, _ := d.Size()
	return io.NopCloser(bytes.NewReader(make([]byte, n))), nil
}
