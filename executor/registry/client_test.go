package registry

import (
	"context"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func descOf(t *testing.T, l v1.Layer) (ocispecs.Descriptor, []byte) {
	t.Helper()
	hash, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: digest.Digest(hash.String()), Size: int64(len(content)),
	}, content
}

func TestResolveFetchBlob(t *testing.T) {
	f := newFake(t, nil)
	image := newImage(t, 2)
	hash := put(t, f, "app/web:1", image)
	c := newTestClient(t)
	ctx := context.Background()

	got, err := c.Resolve(ctx, f.host+"/app/web:1", amd64)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest.String() != hash.String() || got.Ref != f.host+"/app/web:1" || got.Index != nil ||
		len(got.Config) == 0 {
		t.Errorf("resolved %+v", got)
	}
	m, err := c.Fetch(ctx, f.host+"/app/web@"+hash.String(), amd64)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != 2 || m.Desc.Digest.String() != hash.String() || digest.FromBytes(m.Raw) != m.Desc.Digest {
		t.Errorf("fetched %+v", m)
	}
	desc, want := layerDesc(t, image)
	r, err := c.Blob(ctx, f.host+"/app/web:1", desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil || string(content) != string(want) {
		t.Errorf("blob of %d bytes, want %d: %v", len(content), len(want), err)
	}
	if n := f.count("GET", "/manifests/"); n != 1 {
		t.Errorf("%d manifests were read, want only the one of Resolve", n)
	}
}

// addendum is an image for an index, of Linux on an architecture.
func addendum(image v1.Image, architecture string) mutate.IndexAddendum {
	platform := &v1.Platform{OS: "linux", Architecture: architecture}
	return mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}}
}

func TestPushOrder(t *testing.T) {
	f := newFake(t, nil)
	one, two := newImage(t, 2), newImage(t, 1)
	shared, err := one.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if two, err = mutate.AppendLayers(two, shared[0]); err != nil {
		t.Fatal(err)
	}
	index := mutate.IndexMediaType(mutate.AppendManifests(empty.Index,
		addendum(one, "amd64"), addendum(two, "arm64")), types.OCIImageIndex)
	c := newTestClient(t)
	err = c.Push(context.Background(), []PushImage{
		{Refs: []string{f.host + "/a:1", f.host + "/a:2"}, Index: index},
		{Refs: []string{f.host + "/b:1"}, Image: two},
		{Refs: []string{f.host + "/c:1"}, Image: one, ByDigest: true},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	stage, patches := 0, map[string]int{}
	for _, r := range f.requests() {
		at := 0
		switch {
		case r.method == "PUT" && strings.Contains(r.path, "/manifests/sha256:"):
			at = 1
		case r.method == "PUT" && strings.Contains(r.path, "/manifests/"):
			at = 2
		case r.method == "PATCH":
			patches[r.path]++
		case r.method != "PUT" && r.method != "POST":
			continue
		}
		if at < stage {
			t.Errorf("%s %s came after stage %d", r.method, r.path, stage)
		}
		stage = max(stage, at)
	}
	// Four layers, one of them shared, and two configs: each is sent once, and mounted elsewhere.
	if len(patches) != 5 {
		t.Errorf("%d uploads, want 5", len(patches))
	}
	if n := f.count("PUT", "/manifests/1") + f.count("PUT", "/manifests/2"); n != 3 {
		t.Errorf("%d tags were moved, want 3", n)
	}
	got, err := newTestClient(t).Resolve(context.Background(), f.host+"/a:2",
		ocispecs.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"})
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := two.Digest(); got.Manifest.Desc.Digest.String() != want.String() || got.Index == nil {
		t.Errorf("arm64 is %s, want %s", got.Manifest.Desc.Digest, want)
	}
	_, err = c.Resolve(context.Background(), f.host+"/a:2", ocispecs.Platform{OS: "linux", Architecture: "s390x"})
	contains(t, asError(t, err), "no image for linux/s390x", "linux/amd64, linux/arm64")
}

func TestNotFoundAndUnreachable(t *testing.T) {
	f := newFake(t, nil)
	c := newTestClient(t)
	_, err := c.Resolve(context.Background(), f.host+"/nothing:1", amd64)
	e := asError(t, err)
	if e.Status != 404 || e.Temporary() {
		t.Errorf("status %d, temporary %v", e.Status, e.Temporary())
	}
	contains(t, e, f.host+"/nothing:1", "404", "check the image's name")
	f.Close()
	_, err = newTestClient(t).Resolve(context.Background(), f.host+"/nothing:1", amd64)
	e = asError(t, err)
	if !e.Temporary() {
		t.Error("an unreachable registry must be temporary")
	}
	contains(t, e, "cannot be reached", "connection refused")
}
