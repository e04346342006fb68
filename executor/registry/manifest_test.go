package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseDocumentRefuses(t *testing.T) {
	config := `"config":{"digest":"` + someDigest + `","size":1}`
	for _, c := range []struct{ name, raw, header, want string }{
		{"not JSON", "<html>", "text/html", "not valid JSON"},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[]}`, "application/vnd.docker.distribution.manifest.v1+prettyjws",
			"schema 1"},
		{"schema 1 under another type", `{"schemaVersion":1,"fsLayers":[]}`, ocispecs.MediaTypeImageManifest,
			"schema 1"},
		{"both", `{"manifests":[],"layers":[],` + config + `}`, ocispecs.MediaTypeImageIndex,
			"both as an image and as an index"},
		{"index sent as image", `{"manifests":[]}`, ocispecs.MediaTypeImageManifest, "is sent as"},
		{"types differ", `{"mediaType":"` + ocispecs.MediaTypeImageManifest + `",` + config + `}`,
			string(types.DockerManifestSchema2), "is sent as"},
		{"neither", `{"hello":"world"}`, "application/json", "neither an image nor an index"},
		{"bad digest", `{"config":{"digest":"sha256:../../x","size":1}}`, "", "invalid digest"},
		{"negative size", `{"config":{"digest":"` + someDigest + `","size":-1}}`, "", "negative size"},
		{"big config", `{"config":{"digest":"` + someDigest + `","size":99999999}}`, "", "its config is"},
		{"many layers", `{` + config + `,"layers":[{}` + strings.Repeat(",{}", maxLayers) + `]}`, "", "more than 1000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseDocument([]byte(c.raw), c.header)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
	for header, want := range map[string]string{
		"": ocispecs.MediaTypeImageManifest, "application/json": ocispecs.MediaTypeImageManifest,
		string(types.DockerManifestSchema2) + "; charset=utf-8": string(types.DockerManifestSchema2),
	} {
		d, err := parseDocument([]byte("{"+config+"}"), header)
		if err != nil || d.mediaType != want {
			t.Errorf("%q: %+v, %v", header, d, err)
		}
	}
}

func TestHugeAndWrongManifests(t *testing.T) {
	image := newImage(t, 1)
	raw, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	huge := append(bytes.Clone(raw), bytes.Repeat([]byte(" "), maxManifest)...)
	f := newFake(t, nil)
	serve := func(body []byte) {
		f.on(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", string(types.DockerManifestSchema2))
			w.Header().Set("Docker-Content-Digest", someDigest)
			_, _ = w.Write(body)
			return true
		})
	}
	ask := func(ref string) error {
		_, err := newTestClient(t).Resolve(context.Background(), f.host+"/x"+ref, amd64)
		return asError(t, err)
	}
	serve(huge)
	contains(t, ask(":1"), "larger than 4194304 bytes")
	serve(raw)
	contains(t, ask("@"+someDigest), someDigest, digest.FromBytes(raw).String())
	contains(t, ask(":1"), "404") // its config is not there
	f.on(nil)
	put(t, f, "x:1", image)
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	m["layers"] = []any{}
	fewer, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	serve(fewer)
	contains(t, ask(":1"), "0 layers and its config 1")
}

func TestNestedIndexes(t *testing.T) {
	f := newFake(t, nil)
	image := newImage(t, 1)
	var nested v1.ImageIndex = mutate.IndexMediaType(mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: image}), types.OCIImageIndex)
	c := newTestClient(t)
	for depth := 1; depth <= maxNesting+1; depth++ {
		ref := fmt.Sprintf("%s/x:%d", f.host, depth)
		if depth <= maxNesting {
			if err := c.Push(context.Background(), []PushImage{{Refs: []string{ref}, Index: nested}}, nil); err != nil {
				t.Fatal(err)
			}
		} else if err := c.Push(context.Background(), []PushImage{{Refs: []string{ref}, Index: nested}},
			nil); err == nil {
			t.Error("deeper indexes were pushed")
		}
		got, err := newTestClient(t).Resolve(context.Background(), ref, amd64)
		if depth <= maxNesting {
			if want, _ := image.Digest(); err != nil || got.Manifest.Desc.Digest.String() != want.String() {
				t.Errorf("depth %d: %v", depth, err)
			}
		}
		nested = mutate.IndexMediaType(mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: nested}),
			types.OCIImageIndex)
	}
}

func TestForeignLayers(t *testing.T) {
	content, desc := blobOf(t, 1024)
	_ = content
	f := newFake(t, nil)
	desc.MediaType = string(types.DockerForeignLayer)
	desc.URLs = []string{"http://127.0.0.1:1/x", "https://me:pw@example.invalid/x", "https://127.0.0.1:1/x",
		"file:///etc/passwd"}
	_, err := readBlob(newTestClient(t), f.host+"/x:1", desc)
	contains(t, asError(t, err), "404")
}

func FuzzParseConfig(f *testing.F) {
	f.Add("[[registry]]\nprefix = \"*.x\"\n[[registry.mirror]]\nlocation = \"m:1/p\"\ninsecure = true\n", "a.x/y:1")
	f.Add("[[registry]]\nlocation = \"docker.io\"\nblocked = true\n", "busybox")
	f.Fuzz(func(t *testing.T, text, ref string) {
		c, err := ParseConfig(text)
		if err != nil {
			return
		}
		i, err := parseImage(ref)
		if err != nil {
			return
		}
		places, err := c.pulls(i)
		if err == nil && len(places) == 0 {
			t.Error("an image without an endpoint")
		}
		for _, p := range places {
			if p.plain && p.insecure {
				t.Error("an endpoint both plain and insecure")
			}
		}
		_, _ = c.push(i)
	})
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"`+someDigest+`","size":2},"layers":[]}`),
		ocispecs.MediaTypeImageManifest)
	f.Add([]byte(`{"manifests":[{"digest":"`+someDigest+`","platform":{"os":"linux","architecture":"amd64"}}]}`),
		ocispecs.MediaTypeImageIndex)
	f.Fuzz(func(t *testing.T, raw []byte, header string) {
		d, err := parseDocument(raw, header)
		if err != nil {
			return
		}
		if types.MediaType(d.mediaType).IsIndex() != d.isIndex || d.digest != digest.FromBytes(raw) {
			t.Errorf("%+v", d)
		}
		again, err := parseDocument(raw, d.mediaType)
		if err != nil || again.isIndex != d.isIndex {
			t.Errorf("parsed again with its own media type: %v", err)
		}
		for _, e := range choose(d.index, amd64) {
			if e.Digest.Validate() != nil {
				t.Errorf("chose an invalid digest %q", e.Digest)
			}
		}
		_, _, _ = layersOf(d.manifest, raw)
	})
}
