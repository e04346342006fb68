package executor_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
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
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	})
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
		layerOf(t, map[string]string{"bin/": "", "bin/sh": "elf " + arch}),
		layerOf(t, map[string]string{"made": target}),
		nil, layerOf(t, map[string]string{"x": "copied"}),
	}
	img := &planner.Image{
		Target: target, Platform: ocispecs.Platform{OS: "linux", Architecture: arch}, Outputs: outputs,
		Config: []byte(strings.ReplaceAll(imageConfig, "amd64", arch)),
		Tags:   []string{target, "example.com/" + target + ":v1"},
	}
	return executor.Built{
		Image:  img,
		Layers: func(context.Context, executor.LayerEncoding) ([]v1.Layer, error) { return layers, nil },
		Files: func(_ context.Context, _ executor.LayerEncoding, w io.Writer) error {
			_, err := w.Write(tarOf(t, map[string]string{"bin/": "", "bin/sh": "elf " + arch, "link": "-> bin/sh",
				"made": target, "x": "copied"}))
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

func (s *memStore) MoveImages(_ context.Context, images []executor.StoredImage) ([]bool, error) {
	s.images = append(s.images, images...)
	return make([]bool, len(images)), s.fail
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

func mustWrite(t testing.TB, p, s string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
}

type memPusher struct{ pushed int }

func (p *memPusher) Push(_ context.Context, images []executor.PushImage, _ func(string, int64, int64)) error {
	p.pushed += len(images)
	return nil
}
