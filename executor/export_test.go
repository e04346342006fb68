package executor_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/docker"
	"github.com/bakebuild/bake/planner"
)

func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(5, 0)}
		switch {
		case strings.HasSuffix(name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case strings.HasPrefix(files[name], "-> "):
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, files[name][3:], 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			w.Write([]byte(files[name]))
		}
	}
	w.Close()
	return b.Bytes()
}

func layerOf(t testing.TB, files map[string]string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(tarOf(t, files))
	z.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const imageConfig = `{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"],"WorkingDir":"/"},
"rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]},
"history":[{"created":"2020-01-02T03:04:05Z","created_by":"ADD base"},{"created":"2020-01-02T03:04:06Z","created_by":"CMD sh","empty_layer":true},
{"created_by":"RUN make","comment":"buildkit.dockerfile.v0"},{"created_by":"WORKDIR /","comment":"buildkit.dockerfile.v0"},
{"created_by":"ENV a=b","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"COPY x","comment":"buildkit.dockerfile.v0"}],
"variant2":{"kept":true}}`

func built(t testing.TB, target string, arch string, outputs ...config.Attrs) executor.Built {
	t.Helper()
	layers := []v1.Layer{
		layerOf(t, map[string]string{"bin/": "", "bin/sh": "elf " + arch}), layerOf(t, map[string]string{"made": target}),
		nil, layerOf(t, map[string]string{"x": "copied"}),
	}
	img := &planner.Image{
		Target: target, Platform: ocispecs.Platform{OS: "linux", Architecture: arch}, Outputs: outputs,
		Config: []byte(strings.ReplaceAll(imageConfig, "amd64", arch)), Tags: []string{target, "example.com/" + target + ":v1"},
	}
	return executor.Built{
		Image:  img,
		Layers: func(context.Context, executor.LayerEncoding) ([]v1.Layer, error) { return layers, nil },
		Files: func(_ context.Context, _ executor.LayerEncoding, w io.Writer) error {
			_, err := w.Write(tarOf(t, map[string]string{"bin/": "", "bin/sh": "elf " + arch, "link": "-> bin/sh", "made": target, "x": "copied"}))
			return err
		},
	}
}

// memStore is a local store in memory.
type memStore struct {
	mu     sync.Mutex
	blobs  map[digest.Digest][]byte
	images []executor.StoredImage
	fail   error
}

func (s *memStore) WriteBlob(_ context.Context, d digest.Digest, _ int64, open func() (io.ReadCloser, error)) error {
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d] = b
	return err
}

func (s *memStore) PutImages(_ context.Context, images []executor.StoredImage) error {
	s.images = append(s.images, images...)
	return s.fail
}

func export(t testing.TB, dir string, built ...executor.Built) ([]executor.ImageResult, *memStore) {
	t.Helper()
	s := &memStore{blobs: map[digest.Digest][]byte{}}
	res, err := executor.Export(context.Background(), built, executor.ExportOptions{Dir: dir, Store: s})
	if err != nil {
		t.Fatal(err)
	}
	return res, s
}

func TestAssembleConfig(t *testing.T) {
	b := built(t, "api", "amd64")
	layers, _ := b.Layers(context.Background(), executor.LayerEncoding{})
	img, err := executor.Assemble(b.Image, layers, executor.AssembleOptions{Epoch: time.Unix(1_000_000_000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Created  string
		History  []ocispecs.History
		RootFS   ocispecs.RootFS
		Variant2 map[string]bool
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, h := range got.History {
		lines = append(lines, fmt.Sprintf("%s %s empty=%v", h.Created.Format("2006-01-02T15:04:05"), h.CreatedBy, h.EmptyLayer))
	}
	want := []string{
		"2020-01-02T03:04:05 ADD base empty=false", "2020-01-02T03:04:06 CMD sh empty=true",
		"2001-09-09T01:46:40 RUN make empty=false", "2001-09-09T01:46:40 WORKDIR / empty=true",
		"2001-09-09T01:46:40 ENV a=b empty=true", "2001-09-09T01:46:40 COPY x empty=false",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	if got.Created != "2001-09-09T01:46:40Z" || len(got.RootFS.DiffIDs) != 3 || !got.Variant2["kept"] {
		t.Errorf("created %s, diff ids %v, kept %v", got.Created, got.RootFS.DiffIDs, got.Variant2)
	}
}

func TestHistoryHasALineForEachLayer(t *testing.T) {
	img := &planner.Image{Target: "x", Config: []byte(`{"os":"linux","architecture":"arm64"}`)}
	l := layerOf(t, map[string]string{"a": "1"})
	got, err := executor.Assemble(img, []v1.Layer{l}, executor.AssembleOptions{Docker: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := got.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.History) != 1 || c.History[0].Comment != "buildkit.exporter.image.v0" {
		t.Errorf("history %+v", c.History)
	}
	m, err := got.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.MediaType != types.DockerManifestSchema2 || m.Layers[0].MediaType != types.DockerLayer {
		t.Errorf("media types %s, %s", m.MediaType, m.Layers[0].MediaType)
	}
}

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
		built(t, "api", "amd64", config.Attrs{"type": "oci", "dest": "out/api.tar"}, config.Attrs{"type": "oci", "dest": "dir", "tar": "false"}))
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

func read(t testing.TB, p string) []byte {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// skopeo reads an output back with another tool, where it is installed.
func skopeo(t *testing.T, ref, want string) {
	t.Helper()
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Log("skopeo is not installed: not read back by it")
		return
	}
	out, err := exec.Command("skopeo", "inspect", "--format", "{{.Digest}}", ref).CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo inspect %s: %v: %s", ref, err, out)
	}
	if got := strings.TrimSpace(string(out)); want != "" && got != want {
		t.Errorf("skopeo inspect %s: digest %s, want %s", ref, got, want)
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
	out := []config.Attrs{{"type": "oci", "dest": "dir", "tar": "false"}, {"type": "local", "dest": "files"}, {"type": "tar", "dest": "f.tar"}}
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
	for name, want := range map[string]string{"out/kept": "mine", "out/made": "api", "out/link": "elf amd64", "outside/sh": "safe"} {
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
	if want := filepath.Join(d, "out/made") + " is a directory, which a file does not replace"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("err = %v, want %q", err, want)
	}
	if got := string(read(t, filepath.Join(d, "out/made/mine"))); got != "mine" {
		t.Errorf("what was there is %q", got)
	}
}

func mustWrite(t testing.TB, p, s string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestExportStdout(t *testing.T) {
	var b bytes.Buffer
	_, err := executor.Export(context.Background(), []executor.Built{built(t, "api", "amd64", config.Attrs{"type": "tar", "dest": "-"})},
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
	good := built(t, "good", "amd64", config.Attrs{"type": "oci", "dest": "a.tar"}, config.Attrs{"type": "local", "dest": "files"},
		config.Attrs{"type": "oci", "tar": "false", "dest": "dir"}, config.Attrs{"type": "image"}, config.Attrs{"type": "registry"})
	bad := built(t, "bad", "amd64", config.Attrs{"type": "tar", "dest": "b.tar"})
	bad.Files = func(_ context.Context, _ executor.LayerEncoding, w io.Writer) error {
		w.Write([]byte("half"))
		return errors.New("disk full")
	}
	s, p := &memStore{blobs: map[digest.Digest][]byte{}}, &memPusher{}
	_, err := executor.Export(context.Background(), []executor.Built{good, bad}, executor.ExportOptions{Dir: d, Store: s, Pusher: p})
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

type memPusher struct{ pushed int }

func (p *memPusher) Push(_ context.Context, images []executor.PushImage, _ func(string, int64, int64)) error {
	p.pushed += len(images)
	return nil
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

func TestValidate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	mustWrite(t, file, "")
	tests := map[string]struct {
		outputs []config.Attrs
		change  func(*planner.Image)
		want    string
	}{
		"ok":                               {outputs: []config.Attrs{{"type": "oci", "dest": "a"}, {"type": "cacheonly"}, {"type": "docker"}}},
		"no type":                          {outputs: []config.Attrs{{"dest": "a"}}, want: "no type"},
		"unknown type":                     {outputs: []config.Attrs{{"type": "ocl"}}, want: `unknown type "ocl"`},
		"unknown attr":                     {outputs: []config.Attrs{{"type": "oci", "destt": "a"}}, want: `unknown attribute "destt"`},
		"same path":                        {outputs: []config.Attrs{{"type": "oci", "dest": "a"}, {"type": "tar", "dest": "./a"}}, want: "also an output"},
		"below a file":                     {outputs: []config.Attrs{{"type": "local", "dest": "a/b/c"}, {"type": "tar", "dest": "a"}}, want: "/p/a/b/c is below /p/a, which is a file"},
		"below a directory":                {outputs: []config.Attrs{{"type": "local", "dest": "a"}, {"type": "tar", "dest": "a/b"}}},
		"below a file that is there":       {outputs: []config.Attrs{{"type": "tar", "dest": file + "/a"}}, want: "is below a file"},
		"file in the way":                  {outputs: []config.Attrs{{"type": "local", "dest": file}}, want: "is not a directory"},
		"directory in the way of a tar":    {outputs: []config.Attrs{{"type": "tar", "dest": filepath.Dir(file)}}, want: "or use type=local"},
		"directory in the way of a layout": {outputs: []config.Attrs{{"type": "oci", "dest": filepath.Dir(file)}}, want: "or use tar=false"},
		"stdout twice":                     {outputs: []config.Attrs{{"type": "oci"}, {"type": "tar"}}, want: "stdout is also"},
		"not a bool":                       {outputs: []config.Attrs{{"type": "image", "push": "yess"}}, want: "want true or false"},
		"zstd docker":                      {outputs: []config.Attrs{{"type": "docker", "compression": "zstd"}}, want: "oci-mediatypes"},
		"level":                            {outputs: []config.Attrs{{"type": "oci", "compression-level": "12"}}, want: "0 to 9"},
		"local no dest":                    {outputs: []config.Attrs{{"type": "local"}}, want: "dest=DIR"},
		"docker multi": {outputs: []config.Attrs{{"type": "docker"}}, change: func(i *planner.Image) { i.MultiPlatform = true },
			want: "one platform"},
		"push without tag": {outputs: []config.Attrs{{"type": "registry"}}, change: func(i *planner.Image) { i.Tags = nil }, want: "needs a tag"},
		"bad tag": {outputs: []config.Attrs{{"type": "image"}}, change: func(i *planner.Image) { i.Tags = []string{"UPPER"} },
			want: "image name"},
		"tag with a digest": {outputs: []config.Attrs{{"type": "image"}}, change: func(i *planner.Image) { i.Tags = []string{"a:1@sha256:" + strings.Repeat("0", 64)} },
			want: "has a digest"},
		"index annotation": {outputs: []config.Attrs{{"type": "image"}}, change: func(i *planner.Image) { i.Annotations = []string{"index:a=b"} },
			want: "single platform"},
		"bad annotation": {outputs: []config.Attrs{{"type": "image"}}, change: func(i *planner.Image) { i.Annotations = []string{"a"} },
			want: "KEY=VALUE"},
		"annotation attr": {outputs: []config.Attrs{{"type": "image", "annotation-manifest[linux/amd64].a": "b", "annotation.c": "d"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			img := built(t, "api", "amd64", tt.outputs...).Image
			if tt.change != nil {
				tt.change(img)
			}
			err := executor.Validate([]*planner.Image{img}, "/p")
			var oe *executor.OutputError
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("err = %v", err)
			case tt.want != "" && (!errors.As(err, &oe) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("err = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLoadIntoDocker(t *testing.T) {
	var loaded []byte
	answer := `{"stream":"Loaded image: api:latest\n"}`
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "OK") })
	mux.HandleFunc("POST /images/load", func(w http.ResponseWriter, r *http.Request) {
		loaded, _ = io.ReadAll(r.Body)
		io.WriteString(w, answer)
	})
	sock := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(mux)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	t.Setenv("DOCKER_HOST", "unix://"+sock)
	b := built(t, "api", "amd64", config.Attrs{"type": "docker"})
	if _, err := executor.Export(context.Background(), []executor.Built{b}, executor.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "x.tar")
	mustWrite(t, p, string(loaded))
	if _, err := tarball.ImageFromPath(p, nil); err != nil {
		t.Error(err)
	}

	answer = `{"errorDetail":{"message":"no space left"},"error":"no space left"}`
	_, err = executor.Export(context.Background(), []executor.Built{b}, executor.ExportOptions{})
	var de *docker.Error
	if !errors.As(err, &de) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("err = %v", err)
	}
	t.Setenv("DOCKER_HOST", "unix:///nowhere.sock")
	_, err = executor.Export(context.Background(), []executor.Built{b}, executor.ExportOptions{})
	if !errors.As(err, &de) || !strings.Contains(err.Error(), "cannot connect") {
		t.Errorf("err = %v", err)
	}
}

func TestMetadata(t *testing.T) {
	res, _ := export(t, t.TempDir(), built(t, "api", "amd64"))
	b, err := executor.Metadata(res, map[string]string{"web": "failed"})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if m["api"]["containerimage.digest"] != string(res[0].Digest) || m["web"]["status"] != "failed" ||
		m["api"]["image.name"] != "docker.io/library/api:latest,example.com/api:v1" {
		t.Errorf("metadata %s", b)
	}
}
