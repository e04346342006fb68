package embedded

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
)

// TestLostLayerOfStdout: a remote cache has a damaged layer of an image that goes to stdout. That is found before the
// first byte, so its step runs and the archive is whole.
func TestLostLayerOfStdout(t *testing.T) {
	random := make([]byte, 2<<20)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"oci", "docker", "tar"} {
		t.Run(kind, func(t *testing.T) {
			v := newTraveller(t, map[string]string{
				"Dockerfile": "FROM scratch\nCOPY a.txt /a\nRUN [\"count\", \"/x\"]\nCOPY b.txt /b\n",
				"a.txt":      string(random[:1<<20]), "b.txt": string(random[1<<20:]),
			})
			v.must("count /x")
			f := v.forge()
			wrong := f.entry("RUN [\"count\", \"/x\"]")
			for i := range f.index.Layers {
				if l := &f.index.Layers[i]; l.ID == wrong.Outputs[0].Parts[len(wrong.Outputs[0].Parts)-1].Layer {
					l.DiffID = digest.FromString("another")
				}
			}
			v.targets[0].Outputs = []config.Attrs{{"type": kind, "dest": "-"}}
			v.move(local("src", f.write()), nil)
			var out bytes.Buffer
			v.opts.Stdout = &out
			if ran, _, err := v.run(); err != nil || len(ran) != 1 {
				t.Fatalf("ran %q, %v", ran, err)
			}
			v.wantWarning("its step runs again")
			if kind == "oci" {
				path := filepath.Join(t.TempDir(), "out.tar")
				if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				checkDiffIDs(t, path)
			}
			for r := tar.NewReader(&out); ; {
				_, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestURLTooLarge: the size of a file of a URL is bounded.
func TestURLTooLarge(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(maxURLFile+1, 10))
		_, _ = w.Write([]byte("x"))
	}))
	defer server.Close()
	v := newTraveller(t, map[string]string{"Dockerfile": "FROM scratch\nADD " + server.URL + "/f /\n"})
	if _, _, err := v.run(); err == nil || !strings.Contains(err.Error(), "the file has more than 64 GiB") {
		t.Errorf("the error is %v", err)
	}
}
