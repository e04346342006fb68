package resolve

import (
	"fmt"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/cache"
)

// originCase is a stored image, the project that named it, and one that builds on its name.
type originCase struct {
	name     string
	named    cache.Origin
	by       cache.Origin
	serves   bool // otherwise
	ifFrozen bool
	noted    bool
}

func originCases() []originCase {
	local, other := cache.Origin{Project: "/a"}, cache.Origin{Project: "/b"}
	remote := cache.Origin{Project: "https://example.com/x.git", Remote: true}
	const registry, plain = "registry.example.com/x:1", "docker.io/library/x:1"
	return []originCase{
		{registry, local, local, true, true, false},
		{registry, local, other, true, false, true},
		{registry, local, remote, true, false, true},
		// Loaded, tagged by a command, or stored by an older version.
		{registry, cache.Origin{}, local, true, false, true},
		{registry, cache.Origin{}, cache.Origin{}, true, false, true},
		{registry, remote, remote, true, true, false},
		{registry, remote, local, false, false, false},
		{registry, remote, cache.Origin{Project: remote.Project}, false, false, false},
		{registry, remote, cache.Origin{Project: "https://example.com/y.git", Remote: true}, false, false, false},
		{plain, local, other, true, true, false},
		{plain, cache.Origin{}, other, true, true, false},
		{plain, remote, local, false, false, false},
		{"docker.io/team/x:1", local, other, true, false, true},
		{"localhost:5000/x:1", local, other, true, false, true},
	}
}

// TestWhoseImageServes lists, for each origin of a stored image, for which builds it is the answer.
func TestWhoseImageServes(t *testing.T) {
	store, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, c := range originCases() {
		config := []byte(`{"os":"linux","architecture":"amd64"}`)
		manifest := fmt.Appendf(nil,
			`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":%d,"digest":%q},"layers":[]}`,
			ocispecs.MediaTypeImageManifest, ocispecs.MediaTypeImageConfig, len(config), digest.FromBytes(config))
		for _, raw := range [][]byte{config, manifest} {
			if _, err := store.PutBytes(raw); err != nil {
				t.Fatal(err)
			}
		}
		image := cache.Image{Name: c.name, Digest: digest.FromBytes(manifest), Kind: cache.KindBuilt, Origin: c.named,
			MediaType: ocispecs.MediaTypeImageManifest}
		if err := store.PutImages([]cache.Image{image}); err != nil {
			t.Fatal(err)
		}
		for frozen, want := range map[bool]bool{false: c.serves, true: c.ifFrozen} {
			notes := 0
			r := New(store, nil, Options{Origin: c.by, Frozen: frozen, Note: func(string, ...any) { notes++ }})
			known, fresh, err := r.Stored(c.name, ocispecs.Platform{OS: "linux", Architecture: "amd64"})
			if err != nil || (known != nil) != want || fresh != want {
				t.Errorf("%s of %v for %v, frozen %v: %v, %v, %v", c.name, c.named, c.by, frozen, known, fresh, err)
			}
			if known == nil {
				continue
			}
			for range 2 {
				if _, err := r.ResolveImage(t.Context(), c.name, ocispecs.Platform{OS: "linux",
					Architecture: "amd64"}); err != nil {
					t.Fatal(err)
				}
			}
			if notes > 1 || (notes == 1) != c.noted {
				t.Errorf("%s of %v for %v: %d notes", c.name, c.named, c.by, notes)
			}
		}
	}
}
