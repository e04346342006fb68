package main

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

// TestPull shows that a pulled image is complete in the store under its digest, also after the registry has gone.
func TestPull(t *testing.T) {
	needSandbox(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	name := strings.TrimPrefix(server.URL, "http://") + "/pulled/image:1"
	image, err := random.Image(1000, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image, name, crane.Insecure); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	c := newCLI(t)
	stdout, _ := c.ok(t, "image", "pull", name)
	wantMatch(t, "name and digest", stdout, name+" "+digest.String())
	server.Close()
	stdout, _ = c.ok(t, "image", "ls")
	wantMatch(t, "it is listed as a base", stdout, name+` .* base`)
	stdout, _ = c.ok(t, "image", "inspect", name)
	wantMatch(t, "its digest", stdout, digest.String())
	c.ok(t, "cache", "check")
	if _, stderr, code := c.run(t, "image", "pull", name); code != 5 {
		t.Errorf("from a registry that is gone: exit %d: %s", code, stderr)
	}
}
