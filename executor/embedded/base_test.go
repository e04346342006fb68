package embedded

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// hub is a registry on the loopback with one base image, and counts the layers that are requested.
type hub struct {
	client *registry.Client
	ref    string
	blobs  atomic.Int64
}

// ResolveImage makes a planner.Resolver of it.
func (h *hub) ResolveImage(ctx context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	r, err := h.client.Resolve(ctx, ref, p)
	return planner.ResolvedImage{Ref: r.Ref, Digest: r.Digest, Config: r.Config, Layers: len(r.Manifest.Layers)}, err
}

// serve puts an image of the layers into a registry, and connects the site with it.
func (s *site) serve(change func(v1.Image) v1.Image, layers ...[]tar.Header) *hub {
	s.t.Helper()
	image := s.image(layers)
	if change != nil {
		image = change(image)
	}
	return s.connect(image)
}

// connect puts a base into a registry, and connects the site with it.
func (s *site) connect(image v1.Image) *hub {
	s.t.Helper()
	h := &hub{client: registry.New(registry.Options{})}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			h.blobs.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	s.t.Cleanup(server.Close)
	h.ref = strings.TrimPrefix(server.URL, "http://") + "/base:1"
	ref, err := name.NewTag(h.ref)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		s.t.Fatal(err)
	}
	s.client, s.resolver = h.client, h
	s.engine = New(s.store, h.client, Options{Runner: s.runner})
	return h
}

// image has /step and a user app in its lowest layer, and above it the layers given. The content of a file is its
// header's Uname.
func (s *site) image(layers [][]tar.Header) v1.Image {
	s.t.Helper()
	program, err := os.ReadFile(filepath.Join(s.dir, "step"))
	if err != nil {
		s.t.Fatal(err)
	}
	image := empty.Image
	bottom := []tar.Header{
		{Name: "step", Typeflag: tar.TypeReg, Mode: 0o755, Uname: string(program)},
		reg("etc/passwd", "app:x:0:0::/:/step\n"),
	}
	for _, files := range append([][]tar.Header{bottom}, layers...) {
		raw := s.tar(files)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(raw)), nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			s.t.Fatal(err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		s.t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if image, err = mutate.ConfigFile(image, config); err != nil {
		s.t.Fatal(err)
	}
	return image
}

func (s *site) tar(files []tar.Header) []byte {
	s.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range files {
		text := h.Uname
		h.Uname, h.Size = "", int64(len(text))
		if err := w.WriteHeader(&h); err != nil {
			s.t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	return b.Bytes()
}

func reg(name, text string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Uname: text}
}

func link(kind byte, name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: kind, Mode: 0o777, Linkname: to}
}

func TestBaseIsFetchedWhenItIsNeeded(t *testing.T) {
	s := newBox(t, map[string]string{"a.txt": "one"})
	h := s.serve(nil, []tar.Header{reg("etc/base", "of the base"), reg("gone", "x")}, []tar.Header{reg(".wh.gone", "")})
	s.write(map[string]string{"Dockerfile": "FROM " + h.ref + ` AS files
FROM scratch
COPY --from=files /etc/base /b
`})
	asked := func(want int64) {
		t.Helper()
		if got := h.blobs.Swap(0); got > want {
			t.Errorf("%d blobs were requested, want at most %d", got, want)
		}
	}
	s.graph()
	asked(1) // the config
	s.must()
	asked(3)
	s.must()
	asked(0)
	s.write(map[string]string{"Dockerfile": "FROM " + h.ref + `
COPY a.txt /etc/a
RUN ["/step", "copy", "/etc/base", "/b", ";", "copy", "/etc/a", "/c", ";", "absent", "/gone"]
`})
	s.must("/step copy /etc/base /b ; copy /etc/a /c ; absent /gone")
	asked(0)
	if b, c := s.file("api", "/b"), s.file("api", "/c"); b != "of the base" || c != "one" {
		t.Errorf("b is %q, c is %q", b, c)
	}
	s.must()
}

// TestCheckOfABase: what is recorded of a base's layers is what is on disk, whatever their tars list.
func TestCheckOfABase(t *testing.T) {
	s := newBox(t, nil)
	h := s.serve(nil, []tar.Header{
		reg("d/file", "some bytes"), link(tar.TypeLink, "d/again", "d/file"), link(tar.TypeSymlink, "d/link", "file"),
		reg("d/twice", "the first, which goes"), reg("d/twice", "the last"), reg("gone", "x"),
		reg("implied/by/this", "y"),
	}, []tar.Header{
		reg(".wh.gone", ""), reg("d/.wh..wh..opq", ""), reg("d/new", "z"),
		link(tar.TypeLink, "linked", "implied/by/this"),
	})
	s.write(map[string]string{"Dockerfile": "FROM " + h.ref + "\nRUN [\"/step\", \"absent\", \"/gone\"]\n"})
	s.must("/step absent /gone")
	damages, err := s.store.Check(t.Context(), cache.CheckOptions{Layer: CheckLayer})
	if err != nil || len(damages) > 0 {
		t.Errorf("%v, %v", damages, err)
	}
	layers, err := os.ReadDir(filepath.Join(s.store.Dir(), "layers"))
	if err != nil || len(layers) < 3 {
		t.Errorf("%d layers, %v", len(layers), err)
	}
}

func TestBaseWhoseContentIsNotWhatItsConfigSays(t *testing.T) {
	s := newBox(t, nil)
	h := s.serve(func(i v1.Image) v1.Image {
		config, err := i.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config = config.DeepCopy()
		config.RootFS.DiffIDs[1] = config.RootFS.DiffIDs[0]
		if i, err = mutate.ConfigFile(i, config); err != nil {
			t.Fatal(err)
		}
		return i
	}, []tar.Header{reg("x", "x")})
	s.write(map[string]string{"Dockerfile": "FROM " + h.ref + "\nRUN [\"/step\"]\n"})
	ran, _, err := s.run()
	if err == nil || !strings.Contains(err.Error(), "digest mismatch: expected ") || len(ran) > 0 {
		t.Errorf("ran %q, got %v", ran, err)
	}
	s.clean()
}

// Each base tries to make a build read the file "secret" of a folder of the host, or write into the folder.
func TestHostileBase(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20) + outside[1:]
	tests := map[string][][]tar.Header{
		"dotdot":            {{reg(up+"/x", "1")}},
		"link and file":     {{link(tar.TypeSymlink, "d", outside), reg("d/x", "1")}},
		"link below file":   {{link(tar.TypeSymlink, "d", outside)}, {reg("d/x", "1")}},
		"relative link":     {{link(tar.TypeSymlink, "d", up)}, {reg("d/x", "1")}},
		"hard link":         {{link(tar.TypeLink, "f", outside+"/secret")}},
		"hard link by link": {{link(tar.TypeSymlink, "d", outside)}, {link(tar.TypeLink, "f", "d/secret")}},
		"whiteout by link":  {{link(tar.TypeSymlink, "d", outside)}, {reg("d/.wh.secret", "")}},
		"opaque by link":    {{link(tar.TypeSymlink, "d", outside)}, {reg("d/.wh..wh..opq", "")}},
		"link as destination": {{link(tar.TypeSymlink, "d", outside), link(tar.TypeSymlink, "w", outside),
			link(tar.TypeSymlink, "f", outside+"/secret")}},
		"links as mounts": {{
			link(tar.TypeSymlink, "etc", outside), link(tar.TypeSymlink, "cache", outside),
			link(tar.TypeSymlink, "tmp", outside),
		}},
		"link as passwd": {{link(tar.TypeSymlink, "etc/passwd", outside+"/secret"),
			link(tar.TypeSymlink, "etc/resolv.conf", outside+"/x")}},
		"link as proc": {{link(tar.TypeSymlink, "proc", outside), link(tar.TypeSymlink, "dev", outside)}},
		"redirect": {{{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755,
			PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": up,
				"SCHILY.xattr.user.overlay.redirect": up}}}},
		"device":          {{{Name: "d", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 8}}},
		"whiteout device": {{{Name: "d", Typeflag: tar.TypeChar, Mode: 0o666}}},
	}
	for name, layers := range tests {
		t.Run(name, func(t *testing.T) {
			s := newBox(t, map[string]string{"a.txt": "one"})
			h := s.serve(nil, layers...)
			s.write(map[string]string{"Dockerfile": "FROM " + h.ref + ` AS base
COPY a.txt /d/x
COPY a.txt /f
COPY --chown=app a.txt /g
WORKDIR /w
RUN --mount=type=cache,target=/cache ["/step", "write", "/d/y", "1", ";", "write", "/w/z", "1", ";", "write", "/cache/c", "1"]
FROM ` + h.ref + `
COPY --from=base /d /e
COPY --from=base /f /
`})
			_, _, err := s.run()
			if err != nil {
				t.Logf("refused: %v", err)
			} else {
				s.must()
			}
			s.clean()
			same(t, outside, s.store.Dir())
		})
	}
}

// same fails the test when the folder has changed, or its secret is in the cache.
func same(t *testing.T, outside, store string) {
	t.Helper()
	names, err := os.ReadDir(outside)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(raw) != "of the host" ||
		len(names) != 1 {
		t.Errorf("the folder of the host was changed: %v, %q, %v", names, raw, err)
	}
	err = filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte("of the host")) {
			t.Errorf("the secret is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Preview must not say cached of a step that then runs, whatever state the cache is in.
func TestPreviewOnABase(t *testing.T) {
	s := newBox(t, map[string]string{"a.txt": "one", "b.txt": "1"})
	h := s.serve(nil, []tar.Header{reg("etc/base", "of the base")})
	s.write(map[string]string{"Dockerfile": "FROM " + h.ref + ` AS build
COPY a.txt /a
RUN ["/step", "copy", "/a", "/out/a"]
FROM ` + h.ref + `
COPY --from=build /out /out
COPY b.txt /b
RUN ["/step", "copy", "/b", "/c"]
`})
	build, final := "/step copy /a /out/a", "/step copy /b /c"
	s.must(final, build)
	s.write(map[string]string{"b.txt": "2"})
	s.must(final)
	s.write(map[string]string{"a.txt": "two"})
	s.must(final, build)
	for _, lost := range []string{"layers/*", "entries/*", "candidates/*", "oci/blobs/*/*", "packed/*", "statindex/*"} {
		found, err := filepath.Glob(filepath.Join(s.store.Dir(), lost))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
		before, err := s.engine.Preview(t.Context(), s.graph(), s.opts)
		if err != nil {
			t.Fatal(err)
		}
		_, report, err := s.run()
		if err != nil {
			t.Fatalf("without %s: %v", lost, err)
		}
		for i, r := range report.Steps {
			if r.Status == executor.StatusRan && before[i].Status == executor.StatusCached {
				t.Errorf("without %s: step %d was to be cached and ran", lost, i)
			}
		}
		s.must()
	}
}

// A name is looked up in a base that is known by its index only: its layer is unpacked while the copy goes on.
func TestOwnerByNameOnAPackedBase(t *testing.T) {
	s := newBox(t, map[string]string{"a.txt": "one"})
	h := s.serve(nil, []tar.Header{reg("etc/base", "of the base")})
	s.write(map[string]string{"Dockerfile": "FROM " + h.ref +
		"\nCOPY --chown=app a.txt /tmp/a\nUSER app\nRUN [\"/step\", \"facts\", \"/f\"]\n"})
	s.must("/step facts /f")
}
