package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/bakebuild/bake/executor/executortest"
)

// serveToolImage serves the base with the test tool on loopback and returns its reference.
func serveToolImage(t *testing.T) string {
	t.Helper()
	image, err := executortest.ToolImage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/base:1"
	if err := crane.Push(image, ref, crane.Insecure); err != nil {
		t.Fatal(err)
	}
	return ref
}

// TestMonorepo builds fifty services that share a base stage and a library. It shows that nothing runs again without a
// change, that a change of one service runs two steps, and that digests depend neither on the path nor on the cache.
func TestMonorepo(t *testing.T) {
	needSandbox(t)
	repo := executortest.Monorepo{
		Services: 50, LibraryFiles: 2000, ServiceFiles: 20, Base: serveToolImage(t), Tool: executortest.ToolPath,
	}
	c := newCLI(t)
	if err := repo.Write(c.dir); err != nil {
		t.Fatal(err)
	}
	_, stderr := c.ok(t, "build", "--progress=quiet", "--metadata-file", "meta.json")
	if n := strings.Count(stderr, "built mono/svc"); n != repo.Services {
		t.Errorf("built %d services, want %d:\n%s", n, repo.Services, stderr)
	}
	first := builtDigests(t, c)

	t.Run("nothing changed", func(t *testing.T) {
		_, stderr := c.ok(t, "build", "--progress=quiet", "--metadata-file", "meta.json")
		wantMatch(t, "says so", stderr, `up to date \(\d+ steps cached\)`)
		if diff := cmp.Diff(first, builtDigests(t, c)); diff != "" {
			t.Errorf("digests moved (-first +second):\n%s", diff)
		}
	})
	t.Run("one service changed", func(t *testing.T) {
		c.write(t, repo.ServiceFile(7), "changed\n")
		stdout, _ := c.ok(t, "plan")
		wantMatch(t, "plan knows", stdout, `: \d+ cached, 2 will run, 0 may run`)
		_, stderr := c.ok(t, "build", "--progress=quiet", "--metadata-file", "meta.json")
		wantMatch(t, "its COPY and its RUN", stderr, `: 2 ran, \d+ cached`)
		for target, digest := range builtDigests(t, c) {
			if changed := digest != first[target]; changed != (target == repo.Name(7)) {
				t.Errorf("%s: digest changed is %v", target, changed)
			}
		}
	})
	t.Run("another path and an empty cache give the same digests", func(t *testing.T) {
		other := newCLI(t)
		other.dir = filepath.Join(other.dir, "deeper", "checkout")
		if err := repo.Write(other.dir); err != nil {
			t.Fatal(err)
		}
		other.env["TZ"] = "Asia/Tokyo"
		other.ok(t, "build", "--progress=quiet", "--metadata-file", "meta.json", "-j", "1")
		if diff := cmp.Diff(first, builtDigests(t, other)); diff != "" {
			t.Errorf("digests differ (-first +other):\n%s", diff)
		}
	})
}

// builtDigests returns the digests of all targets from the metadata file.
func builtDigests(t *testing.T, c *cli) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.dir, "meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	var meta map[string]json.RawMessage
	if err := json.Unmarshal(raw, &meta); err != nil {
		t.Fatal(err)
	}
	digests := map[string]string{}
	for target, value := range meta {
		var of struct {
			Digest string `json:"containerimage.digest"`
		}
		if json.Unmarshal(value, &of) == nil && of.Digest != "" {
			digests[target] = of.Digest
		}
	}
	if len(digests) == 0 {
		t.Fatal(fmt.Errorf("no digest in %s", raw))
	}
	return digests
}
