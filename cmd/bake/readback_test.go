package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	digest "github.com/opencontainers/go-digest"
)

// distributionRegistry starts the registry of the distribution project, without authentication, and returns its
// address.
func distributionRegistry(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("registry")
	if err != nil {
		skip(t, "needs distribution's registry (.ci/peers builds it)")
	}
	address := "127.0.0.1:" + reservePort(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	writeFile(t, config, fmt.Sprintf("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n"+
		"    rootdirectory: %s\nhttp:\n  addr: %s\n",
		filepath.Join(dir, "data"), address))
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	startService(t, cmd, log.Name(), answers("tcp", address))
	return address
}

// readProject has an image of each kind that registries store.
const readProject = `
group "default" { targets = ["gzip", "zstd", "plain", "multi", "noted", "levels"] }
target "common" {
  dockerfile-inline = <<EOT
FROM BASES/busybox:1
ENV A=b
RUN echo pushed >/made
COPY bake.hcl /it
CMD ["cat", "/made"]
EOT
  labels = { "a.label" = "x" }
}
target "gzip" {
  inherits = ["common"]
  tags = ["HOST/read/gzip:1"]
  output = ["type=registry,compression=gzip,compression-level=9"]
}
target "zstd" {
  inherits = ["common"]
  tags = ["HOST/read/zstd:1"]
  output = ["type=registry,compression=zstd,compression-level=7,force-compression=true,oci-mediatypes=true"]
}
target "plain" {
  inherits = ["common"]
  tags = ["HOST/read/plain:1"]
  output = ["type=registry,compression=uncompressed,force-compression=true,oci-mediatypes=true"]
}
target "multi" {
  dockerfile-inline = "FROM scratch\nARG TARGETARCH\nCOPY bake.hcl /it\nENV ARCH=$TARGETARCH\nCMD [\"/it\"]"
  platforms = ["linux/amd64", "linux/arm64"]
  tags = ["HOST/read/multi:1"]
  output = ["type=registry"]
}
target "noted" {
  inherits = ["common"]
  tags = ["HOST/read/noted:1"]
  annotations = [
    "manifest:on.manifest=1", "index:on.index=2",
    "manifest-descriptor:on.manifest.descriptor=3", "index-descriptor:on.index.descriptor=4",
  ]
  attest = ["type=provenance,mode=max"]
  output = ["type=registry", "type=oci,dest=noted.tar"]
}
target "levels" {
  name = "level-${kind}-${level}"
  matrix = { kind = ["gzip", "zstd"], level = ["1", "9"] }
  dockerfile-inline = "FROM scratch\nCOPY text /"
  tags = ["HOST/read/level-${kind}-${level}:1"]
  output = ["type=registry,compression=${kind},compression-level=${level}"]
}
`

// readNames returns the images of readProject except those of the levels.
func readNames() []string { return []string{"gzip", "zstd", "plain", "multi", "noted"} }

// TestReadersOfPushed shows that another client, skopeo and a Docker engine read the images pushed to two registries.
func TestReadersOfPushed(t *testing.T) {
	needSandbox(t)
	bases := serveBases(t)
	for kind, serve := range map[string]func(*testing.T) string{"go-containerregistry": openRegistry,
		"distribution": distributionRegistry} {
		t.Run(kind, func(t *testing.T) {
			host := serve(t)
			c := newCLI(t)
			c.write(t, "bake.hcl", strings.NewReplacer("BASES", bases, "HOST", host).Replace(readProject))
			c.write(t, "text", fmt.Sprint(rand.New(rand.NewPCG(1, 2)).Perm(50_000)))
			c.ok(t, "build")
			t.Run("client", func(t *testing.T) {
				clientReads(t, host)
				annotationsArrived(t, host, tarFiles(t, filepath.Join(c.dir, "noted.tar"))["index.json"])
				levelsHeeded(t, host)
			})
			t.Run("skopeo", func(t *testing.T) { skopeoReads(t, host) })
			t.Run("docker", func(t *testing.T) { dockerReads(t, host, dockerOnHost(t)) })
		})
	}
}

// clientReads shows that go-containerregistry finds all images complete and with the requested compression.
func clientReads(t *testing.T, host string) {
	for _, image := range readNames() {
		ref, err := name.ParseReference(host+"/read/"+image+":1", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Get(ref)
		if err != nil {
			t.Fatal(err)
		}
		if got.MediaType.IsIndex() {
			index, err := got.ImageIndex()
			if err != nil {
				t.Fatal(err)
			}
			// The layers of statements have no compression, which validate rejects.
			if err := validate.Index(index); err != nil && image != "noted" {
				t.Errorf("%s: the index is damaged: %v", image, err)
			}
			if bytes.Contains(got.Manifest, []byte("artifactType")) {
				t.Errorf("%s: the index has an artifactType, which BuildKit's lacks: %s", image, got.Manifest)
			}
			continue
		}
		one, err := got.Image()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(one); err != nil && image == "gzip" { // validate knows no other compression
			t.Errorf("%s: the image is damaged: %v", image, err)
		}
		wantCompression(t, image, one)
	}
}

// levelsHeeded shows that a higher compression level gives fewer bytes.
func levelsHeeded(t *testing.T, host string) {
	t.Helper()
	for _, kind := range []string{"gzip", "zstd"} {
		var sizes []int64
		for _, level := range []string{"1", "9"} {
			image, err := crane.Pull(host+"/read/level-"+kind+"-"+level+":1", crane.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			m, err := image.Manifest()
			if err != nil || len(m.Layers) != 1 {
				t.Fatal(m, err)
			}
			sizes = append(sizes, m.Layers[0].Size)
		}
		if sizes[0] <= sizes[1] {
			t.Errorf("%s: level 1 gives %d bytes, level 9 gives %d", kind, sizes[0], sizes[1])
		}
	}
}

// wantCompression checks the compression of all layers, with those of the base, which were recompressed.
func wantCompression(t *testing.T, kind string, image v1.Image) {
	t.Helper()
	m, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	suffix := map[string]string{"gzip": "gzip", "zstd": "tar+zstd", "plain": "tar"}[kind]
	magic := map[string]string{"gzip": "\x1f\x8b", "zstd": "\x28\xb5\x2f\xfd"}[kind]
	layers, err := image.Layers()
	if err != nil || len(layers) != 3 {
		t.Fatalf("%s: %d layers, %v", kind, len(layers), err)
	}
	for i, d := range m.Layers {
		r, err := layers[i].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		start := make([]byte, 4)
		_, err = r.Read(start)
		r.Close()
		if err != nil || !strings.HasSuffix(string(d.MediaType), suffix) || !bytes.HasPrefix(start, []byte(magic)) {
			t.Errorf("layer %d of %s is %s and begins with %x, %v", i+1, kind, d.MediaType, start, err)
		}
	}
}

// annotationsArrived shows that each annotation is at its level and at no other. Only a layout has a descriptor of the
// index, so that level is checked in layout, the index.json of one.
func annotationsArrived(t *testing.T, host, layout string) {
	t.Helper()
	var entries v1.IndexManifest
	if err := json.Unmarshal([]byte(layout), &entries); err != nil || len(entries.Manifests) != 1 {
		t.Fatalf("index.json of a layout: %v: %s", err, layout)
	}
	ref := host + "/read/noted"
	raw, err := crane.Manifest(ref+":1", crane.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 2 {
		t.Fatalf("want an image and its attestations, got %s", raw)
	}
	if raw, err = crane.Manifest(ref+"@"+index.Manifests[0].Digest.String(), crane.Insecure); err != nil {
		t.Fatal(err)
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	for _, level := range []struct {
		name string
		has  map[string]string
		want string
	}{
		{"descriptor of the index", entries.Manifests[0].Annotations, "on.index.descriptor=4"},
		{"index", index.Annotations, "on.index=2"},
		{"descriptor of the image", index.Manifests[0].Annotations, "on.manifest.descriptor=3"},
		{"manifest", manifest.Annotations, "on.manifest=1"},
	} {
		var own []string
		for k, v := range level.has {
			if strings.HasPrefix(k, "on.") {
				own = append(own, k+"="+v)
			}
		}
		if !slices.Equal(own, []string{level.want}) {
			t.Errorf("%s: annotations %v", level.name, own)
		}
	}
}

// skopeoReads shows that skopeo copies and inspects all images under their digests.
func skopeoReads(t *testing.T, host string) {
	program, err := exec.LookPath("skopeo")
	if err != nil {
		skip(t, "needs skopeo")
	}
	for _, image := range readNames() {
		ref := "docker://" + host + "/read/" + image + ":1"
		want, err := crane.Digest(host+"/read/"+image+":1", crane.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), "copy")
		out, err := exec.Command(program, "copy", "--insecure-policy", "--src-tls-verify=false", "--all",
			"--preserve-digests", ref, "dir:"+to).CombinedOutput()
		if err != nil {
			t.Errorf("skopeo copy %s: %v\n%s", ref, err, out)
			continue
		}
		raw, err := os.ReadFile(filepath.Join(to, "manifest.json"))
		if err != nil {
			t.Fatal(err)
		}
		if got := digest.FromBytes(raw).String(); got != want {
			t.Errorf("skopeo has %s of %s, not %s", got, ref, want)
		}
		out, err = exec.Command(program, "inspect", "--tls-verify=false", "--override-arch=amd64",
			"--override-os=linux", "--format={{.Digest}}", ref).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("skopeo inspect %s: %s, %v; want %s", ref, got, err, want)
		}
	}
}

// dockerReads shows that a Docker engine pulls and runs all images.
func dockerReads(t *testing.T, host, engine string) {
	for _, image := range readNames() {
		for _, arch := range []string{"amd64", "arm64"} {
			if arch != "amd64" && image != "multi" {
				continue
			}
			dockerPulls(t, engine, host+"/read/"+image+":1", arch)
		}
		if image == "multi" {
			continue // it has no program
		}
		if out := dockerCLI(t, engine, "run", "--rm", "--network", "none", host+"/read/"+image+":1"); out != "pushed" {
			t.Errorf("a container of %s says %q", image, out)
		}
	}
}

// engineImage is the output of docker image inspect.
type engineImage struct {
	ID           string `json:"Id"`
	RepoDigests  []string
	Architecture string
	Config       v1.Config
	RootFS       struct{ Layers []string }
}

// dockerPulls shows that an engine has a pulled image with its digest, config, layers and history.
func dockerPulls(t *testing.T, engine, ref, arch string) {
	t.Helper()
	platform := &v1.Platform{OS: "linux", Architecture: arch}
	pushed, err := crane.Digest(ref, crane.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := crane.Pull(ref, crane.Insecure, crane.WithPlatform(platform))
	if err != nil {
		t.Fatal(err)
	}
	id, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.Command("docker", "-H", engine, "image", "inspect", ref).Output(); err == nil {
		dockerCLI(t, engine, "rmi", ref) // of another platform
	}
	dockerCLI(t, engine, "pull", "--platform", "linux/"+arch, ref)
	var all []engineImage
	if err := json.Unmarshal([]byte(dockerCLI(t, engine, "image", "inspect", ref)), &all); err != nil || len(all) != 1 {
		t.Fatal(len(all), err)
	}
	got := all[0]
	repo := strings.TrimSuffix(ref, ":1")
	var layers []string
	for _, l := range config.RootFS.DiffIDs {
		layers = append(layers, l.String())
	}
	switch {
	case got.ID != id.String(), !slices.Contains(got.RepoDigests, repo+"@"+pushed):
		t.Errorf("%s for %s: the engine has %s of %v, not %s of %s", ref, arch, got.ID, got.RepoDigests, id, pushed)
	case !slices.Equal(got.RootFS.Layers, layers), got.Architecture != arch:
		t.Errorf("%s for %s: the engine has layers %v of %s, not %v", ref, arch, got.RootFS.Layers, got.Architecture,
			layers)
	case !slices.Equal(got.Config.Cmd, config.Config.Cmd), !slices.Equal(got.Config.Env, config.Config.Env),
		got.Config.Labels["a.label"] != config.Config.Labels["a.label"]:
		t.Errorf("%s for %s: the engine has config %+v, not %+v", ref, arch, got.Config, config.Config)
	}
	var history []string
	for _, h := range slices.Backward(config.History) {
		history = append(history, h.CreatedBy)
	}
	shown := dockerCLI(t, engine, "history", "--no-trunc", "--format", "{{.CreatedBy}}", ref)
	if shown != strings.TrimSpace(strings.Join(history, "\n")) {
		t.Errorf("%s for %s: the engine's history is\n%s\nnot\n%s", ref, arch, shown, strings.Join(history, "\n"))
	}
}
