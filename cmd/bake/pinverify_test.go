package main

import (
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestVerifyPlatforms shows that verify --online fails if the image of a built platform is missing from an existing
// index.
func TestVerifyPlatforms(t *testing.T) {
	s := newPinSite(t)
	s.project()
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	s.push("team/base:1.2.4", "1.2.4", 1, runtime.GOARCH)
	s.push("team/base:1.2.3", "1.2.3", 1, runtime.GOARCH, other)
	s.bake(0, "2 pins in total", "pin")
	s.bake(0, "none deleted or moved", "verify", "--online")
	ref, err := name.ParseReference(s.host + "/team/base:1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	remove := func(arch string) {
		t.Helper()
		index, err := remote.Index(ref)
		if err != nil {
			t.Fatal(err)
		}
		m, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range m.Manifests {
			if d.Platform.Architecture != arch {
				continue
			}
			if err := remote.Delete(ref.Context().Digest(d.Digest.String())); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove(other) // no target is built for it
	s.bake(0, "none deleted or moved", "verify", "--online")
	remove(runtime.GOARCH)
	s.bake(3, "the linux/"+runtime.GOARCH+" image of ", "verify", "--online")
}
