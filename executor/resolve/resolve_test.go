package resolve

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// TestStoredAnswers shows for how long the answer of a registry is reused. The resolver has no client: asking the
// registry would be a nil dereference.
func TestStoredAnswers(t *testing.T) {
	store, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const tag = "registry.example.com/base:1"
	platform := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	r := New(store, nil, Options{Note: t.Logf})
	stored := func() (*planner.ResolvedImage, bool) {
		t.Helper()
		known, fresh, err := r.Stored(tag, platform)
		if err != nil {
			t.Fatal(err)
		}
		return known, fresh
	}
	if known, fresh := stored(); known != nil || fresh {
		t.Errorf("an empty store answers %v, %v", known, fresh)
	}

	config := []byte(`{"os":"linux","architecture":"amd64"}`)
	manifest := fmt.Appendf(nil,
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":%d,"digest":%q},"layers":[]}`,
		ocispecs.MediaTypeImageManifest, ocispecs.MediaTypeImageConfig, len(config), digest.FromBytes(config))
	d := digest.FromBytes(manifest)
	answer := registry.Resolved{Ref: tag + "@" + d.String(), Digest: d, MediaType: ocispecs.MediaTypeImageManifest,
		Config: config}
	answer.Manifest.Raw = manifest
	if err := r.Keep(answer); err != nil {
		t.Fatal(err)
	}
	if known, fresh := stored(); known == nil || fresh {
		t.Errorf("the tag of an image requested by digest: got %v, fresh %v", known, fresh)
	}
	want := planner.ResolvedImage{Ref: tag, Digest: d, Config: config, Platforms: []string{"linux/amd64"}}
	resolve := func(ref string) {
		t.Helper()
		got, err := r.ResolveImage(t.Context(), ref, platform)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Error(err, d)
		}
	}
	resolve(tag + "@" + d.String())

	answer.Ref = tag
	if err := r.Keep(answer); err != nil {
		t.Fatal(err)
	}
	resolve(tag)
	r.now = func() time.Time { return time.Now().Add(freshFor + time.Minute) }
	if _, fresh := stored(); fresh {
		t.Error("an answer is fresh after more than an hour")
	}
	r.opts.Offline = true
	resolve(tag)
}
