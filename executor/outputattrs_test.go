package executor_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// documentedAttrs are the attributes of exporters in the documentation of BuildKit and buildx, each with values. A
// value after "!" must be refused; others have an effect or ask for what happens anyway.
func documentedAttrs() map[string]string {
	return map[string]string{
		"image": "name=a/b push=true push=false push-by-digest=true registry.insecure=true oci-mediatypes=false " +
			"oci-artifact=false unpack=false !unpack=true dangling-name-prefix=x !dangling-name-prefix=x:1 " +
			"danging-name-empty-only=true name-canonical=true compression=zstd compression=uncompressed " +
			"!compression=estargz compression-level=3 rewrite-timestamp=true force-compression=true store=true " +
			"store=false annotation.k=v annotation-manifest[linux/amd64].k=v annotation-index.k=v " +
			"attestation-inline=true !attestation-inline=false prefer-nondist-layers=false " +
			"!prefer-nondist-layers=true source-date-epoch=1700000000 source-date-epoch= !source-date-epoch=soon " +
			"buildinfo=false !buildinfo=true !dest=x !tar=false !context=x !platform-split=true !mode=copy " +
			"!attestation-prefix=x !nosuch=1",
		"registry": "name=a/b push=true push=false push-by-digest=true registry.insecure=true name-canonical=true " +
			"dangling-name-prefix=x oci-mediatypes=true store=true !unpack=true compression=gzip !dest=x",
		"oci": "dest=x " +
			"tar=true tar=false,dest=x name=a/b oci-mediatypes=false oci-artifact=true compression=zstd " +
			"compression-level=9 force-compression=true rewrite-timestamp=true source-date-epoch=0 annotation.k=v " +
			"!push=true !push-by-digest=true !registry.insecure=true !store=true !context=x !platform-split=true",
		"docker": "dest=x context=c tar=false,dest=x name=a/b compression=gzip annotation.k=v source-date-epoch=1 " +
			"!annotation-index.k=v !compression=zstd !push=true !platform-split=true",
		"local": "dest=x,platform-split=true dest=x,platform-split=false dest=x,attestation-prefix=p " +
			"dest=x,mode=copy !dest=x,mode=delete !dest=x,src=/a " +
			"dest=x,source-date-epoch=1 dest=x,rewrite-timestamp=false " +
			"!dest=x,compression=gzip !dest=x,name=a !dest=x,annotation.k=v !dest=x,oci-mediatypes=true",
		"tar": "dest=x dest=- dest=x,platform-split=true dest=x,attestation-prefix=p dest=x,source-date-epoch=1 " +
			"!dest=x,mode=copy !dest=x,src=/a !dest=x,compression=gzip !dest=x,push=true",
		"cacheonly": "!dest=x !compression=gzip !push=true",
	}
}

// TestDocumentedAttrs: each documented attribute of each type of output is accepted or refused, and a refusal names the
// attribute and the type or the value.
func TestDocumentedAttrs(t *testing.T) {
	for kind, values := range documentedAttrs() {
		for _, value := range strings.Fields(values) {
			value, refused := strings.CutPrefix(value, "!")
			a := config.Attrs{"type": kind}
			name := ""
			for part := range strings.SplitSeq(value, ",") {
				var v string
				name, v, _ = strings.Cut(part, "=")
				a[name] = v
			}
			img := built(t, "api", "amd64", a).Image
			err := executor.Validate([]*planner.Image{img}, t.TempDir())
			if refused != (err != nil) {
				t.Errorf("type=%s,%s: %v", kind, value, err)
			}
			short, _, _ := strings.Cut(strings.TrimPrefix(name, "annotation-"), ".")
			if err != nil && !strings.Contains(err.Error(), short) {
				t.Errorf("type=%s,%s: the message does not name the attribute: %v", kind, value, err)
			}
		}
	}
}

// TestPlatformSplit: platform-split=true makes a folder for one platform too, and false none for several.
func TestPlatformSplit(t *testing.T) {
	for _, c := range []struct {
		split string
		archs []string
		want  string
	}{
		{"", []string{"arm64"}, "bin"}, {"true", []string{"arm64"}, "linux_arm64/bin"},
		{"false", []string{"arm64"}, "bin"},
		{"", []string{"amd64", "arm64"}, "linux_arm64/bin"}, {"true", []string{"amd64", "arm64"}, "linux_arm64/bin"},
		{"false", []string{"amd64", "arm64"}, ""},
	} {
		for _, kind := range []string{"local", "tar"} {
			d := t.TempDir()
			a := config.Attrs{"type": kind, "dest": "out"}
			if c.split != "" {
				a["platform-split"] = c.split
			}
			var all []executor.Built
			for _, arch := range c.archs {
				all = append(all, built(t, "api", arch, a))
			}
			if c.want == "" {
				_, err := executor.Export(t.Context(), all, executor.ExportOptions{Dir: d})
				want := "two platforms have the file bin/sh; remove platform-split"
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s of two platforms in one place: %v", kind, err)
				}
				continue
			}
			export(t, d, all...)
			got := filepath.Join(d, "out", c.want, "sh")
			if kind == "tar" {
				if raw := string(read(t, filepath.Join(d, "out"))); !strings.Contains(raw, "\x00"+c.want+"/sh\x00") &&
					!strings.HasPrefix(raw, c.want+"/") {
					t.Errorf("%s, split %q, %v: no %s in the tar", kind, c.split, c.archs, c.want)
				}
			} else if _, err := os.Stat(got); err != nil {
				t.Errorf("%s, split %q, %v: %v", kind, c.split, c.archs, err)
			}
		}
	}
}

// TestEpochOfOutput: source-date-epoch is the creation time of the image and the epoch of its layers, for this output
// only.
func TestEpochOfOutput(t *testing.T) {
	at := time.Unix(1700000000, 0).UTC()
	own := time.Unix(5, 0).UTC()
	b := built(t, "api", "amd64", config.Attrs{"type": "image", "source-date-epoch": "1700000000"},
		config.Attrs{"type": "image", "name-canonical": "true"})
	b.Image.Epoch = &own
	var epochs []time.Time
	layers := b.Layers
	b.Layers = func(ctx context.Context, e executor.LayerEncoding) ([]v1.Layer, error) {
		epochs = append(epochs, e.EpochOr(own))
		return layers(ctx, e)
	}
	s := storeOf(t, b)
	created := map[string]bool{}
	for _, image := range s.images {
		var m v1.Manifest
		decode(t, s.blobs[image.Digest], &m)
		var c v1.ConfigFile
		for d, raw := range s.blobs {
			if d.String() == m.Config.Digest.String() {
				decode(t, raw, &c)
			}
		}
		created[c.Created.Format(time.RFC3339)] = true
	}
	want := map[string]bool{at.Format(time.RFC3339): true, own.Format(time.RFC3339): true}
	if !maps.Equal(created, want) {
		t.Errorf("created %v, want %v", created, want)
	}
	if len(epochs) != 2 || !epochs[0].Equal(at) || !epochs[1].Equal(own) {
		t.Errorf("epochs of layers: %v", epochs)
	}
}

// TestNamesByDigest: dangling-name-prefix and name-canonical add names with the digest.
func TestNamesByDigest(t *testing.T) {
	for _, c := range []struct {
		attrs config.Attrs
		want  []string
	}{
		{config.Attrs{"dangling-name-prefix": "ci"}, []string{"docker.io/library/ci@"}},
		{config.Attrs{"dangling-name-prefix": "ci", "danging-name-empty-only": "true"}, nil},
		{config.Attrs{"name-canonical": "true"}, []string{"example.com/api:v1@"}},
	} {
		c.attrs["type"] = "image"
		s := storeOf(t, built(t, "api", "amd64", c.attrs))
		for _, want := range c.want {
			if !strings.Contains(names(s), want+s.images[0].Digest.String()) {
				t.Errorf("%v: %s, want %s", c.attrs, names(s), want)
			}
		}
		if c.want == nil && strings.Contains(names(s), "/ci@") {
			t.Errorf("%v: %s", c.attrs, names(s))
		}
	}
}

// TestIndexOfOnePlatform: index annotations make an index, as with BuildKit.
func TestIndexOfOnePlatform(t *testing.T) {
	b := built(t, "api", "amd64", config.Attrs{"type": "image"})
	b.Image.Annotations = []string{"index:k=v", "index-descriptor:d=e"}
	s := storeOf(t, b)
	var index v1.IndexManifest
	decode(t, s.blobs[s.images[0].Digest], &index)
	if index.Annotations["k"] != "v" || len(index.Manifests) != 1 ||
		index.Manifests[0].Platform.Architecture != "amd64" {
		t.Errorf("index %+v", index)
	}
}

// TestSharedLayout: several targets fill one layout directory, as one index.
func TestSharedLayout(t *testing.T) {
	d := t.TempDir()
	a := config.Attrs{"type": "oci", "tar": "false", "dest": "layout"}
	export(t, d, built(t, "one", "amd64", a), built(t, "two", "arm64", a))
	var index v1.IndexManifest
	decode(t, read(t, filepath.Join(d, "layout/index.json")), &index)
	found := map[string]bool{}
	for _, m := range index.Manifests {
		found[m.Annotations["io.containerd.image.name"]] = true
		if _, err := os.Stat(filepath.Join(d, "layout/blobs/sha256", m.Digest.Hex)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"docker.io/library/one:latest", "docker.io/library/two:latest"} {
		if !found[name] {
			t.Errorf("%s is not in the index: %v", name, found)
		}
	}
}

// storeOf exports to a local store in memory.
func storeOf(t *testing.T, b executor.Built) *memStore {
	t.Helper()
	s := &memStore{blobs: map[digest.Digest][]byte{}}
	_, err := executor.Export(context.Background(), []executor.Built{b}, executor.ExportOptions{
		Dir: t.TempDir(), Store: s, Stdout: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func names(s *memStore) string {
	var all []string
	for _, image := range s.images {
		all = append(all, image.Name)
	}
	return strings.Join(all, " ")
}

func decode(t *testing.T, raw []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}
