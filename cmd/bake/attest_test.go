package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// scannerProgram is an SBOM scanner that follows BuildKit's protocol and lists the files it is given.
const scannerProgram = `package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	src, dst := os.Getenv("BUILDKIT_SCAN_SOURCE"), os.Getenv("BUILDKIT_SCAN_DESTINATION")
	files := []map[string]string{}
	err := filepath.WalkDir(src, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, map[string]string{"fileName": strings.TrimPrefix(p, src)})
		}
		return err
	})
	if err != nil {
		panic(err)
	}
	raw, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
		"predicate": map[string]any{
			"spdxVersion": "SPDX-2.3", "name": os.Getenv("BUILDKIT_SCAN_label"), "files": files,
		},
	})
	if err != nil {
		panic(err)
	}
	if os.Getenv("BUILDKIT_SCAN_lie") != "" {
		raw = []byte("no statement")
	}
	if err := os.WriteFile(filepath.Join(dst, "sbom.spdx.json"), raw, 0o644); err != nil {
		panic(err)
	}
}
`

const attestedProject = `
target "default" {
  dockerfile-inline = <<EOT
FROM scratch AS base
ARG WHO=x
COPY a.txt /a.txt
FROM base
COPY b.txt /b/b.txt
EOT
  args = { WHO = "secretive" }
  tags = ["HOST/app:TAG"]
  attest = [
    "type=provenance,mode=max,builder-id=https://builder.example",
    "type=sbom,generator=HOST/scan:1,label=hello",
  ]
  output = ["type=registry"]
}
`

// attested returns a project with attestations, and the registry that has its scanner.
func attested(t *testing.T) (c *cli, host string) {
	t.Helper()
	needSandbox(t)
	host = openRegistry(t)
	c = newCLI(t)
	dir := filepath.Join(c.dir, "scan")
	writeFile(t, filepath.Join(dir, "main.go"), scannerProgram)
	writeFile(t, filepath.Join(dir, "go.mod"), "module scan\n\ngo 1.26\n")
	build := exec.Command("go", "build", "-o", "scanner", ".")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the scanner: %v\n%s", err, out)
	}
	writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nCOPY scanner /scanner\nENTRYPOINT [\"/scanner\"]\n")
	c.ok(t, "image", "build", "--progress=none", "-t", host+"/scan:1", "--push", "scan")
	c.write(t, "a.txt", "a")
	c.write(t, "b.txt", "b")
	c.write(t, "bake.hcl", strings.NewReplacer("HOST", host, "TAG", "bake").Replace(attestedProject))
	return c, host
}

// statement is an in-toto statement.
type statement struct {
	Type          string `json:"_type"`
	PredicateType string `json:"predicateType"`
	Subject       []struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	Predicate any `json:"predicate"`
}

// statements are the attestations of an index with one image, by predicate type.
type statements struct {
	index    *v1.IndexManifest
	manifest map[string]any // of the attestations
	image    *v1.Manifest
	by       map[string]statement
}

// readStatements reads the attestations of an image from a registry and checks that each has the image as its subject.
func readStatements(t *testing.T, ref string) statements {
	t.Helper()
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(parsed)
	if err != nil {
		t.Fatal(err)
	}
	s := statements{by: map[string]statement{}}
	if s.index, err = index.IndexManifest(); err != nil || len(s.index.Manifests) != 2 {
		t.Fatalf("want an image and its attestations, got %+v, %v", s.index, err)
	}
	image, err := index.Image(s.index.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if s.image, err = image.Manifest(); err != nil {
		t.Fatal(err)
	}
	about, err := index.Image(s.index.Manifests[1].Digest)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := about.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &s.manifest); err != nil {
		t.Fatal(err)
	}
	layers, err := about.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		var one statement
		if err := json.Unmarshal(content, &one); err != nil {
			t.Fatal(err)
		}
		for _, subject := range one.Subject {
			if subject.Digest["sha256"] != s.index.Manifests[0].Digest.Hex {
				t.Errorf("%s is about %v, not the image", one.PredicateType, subject)
			}
		}
		s.by[one.PredicateType] = one
	}
	return s
}

const (
	spdxType = "https://spdx.dev/Document"
	slsaType = "https://slsa.dev/provenance/v1"
)

// TestAttestations shows that the requested attestations are in the index next to the image, after a push from the
// local store too.
func TestAttestations(t *testing.T) {
	c, host := attested(t)
	c.ok(t, "build", "--progress=none")
	s := readStatements(t, host+"/app:bake")
	if d := s.index.Manifests[1]; d.Platform.OS != "unknown" ||
		d.Annotations["vnd.docker.reference.type"] != "attestation-manifest" ||
		d.Annotations["vnd.docker.reference.digest"] != s.index.Manifests[0].Digest.String() {
		t.Errorf("the attestations are described as %+v", d)
	}
	text := func(kind string) string {
		raw, err := json.Marshal(s.by[kind].Predicate)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for _, want := range []string{`"/a.txt"`, `"/b/b.txt"`, `"hello"`} {
		if !strings.Contains(text(spdxType), want) {
			t.Errorf("the SBOM lacks %s: %s", want, text(spdxType))
		}
	}
	for _, want := range []string{"https://builder.example", `"build-arg:WHO":"secretive"`,
		"pkg:docker/" + host + "/scan@1", "llbDefinition"} {
		if !strings.Contains(text(slsaType), want) {
			t.Errorf("the provenance lacks %s: %s", want, text(slsaType))
		}
	}
	// mode=min has neither build arguments nor steps.
	c.ok(t, "build", "--progress=none", "--provenance=mode=min", "--sbom=false")
	if s = readStatements(t, host+"/app:bake"); len(s.by) != 1 {
		t.Errorf("attested: %v", s.by)
	}
	for _, secret := range []string{"secretive", "llbDefinition"} {
		if strings.Contains(text(slsaType), secret) {
			t.Errorf("the provenance of mode=min has %s", secret)
		}
	}
	// The local store keeps all attestations, and a push from there is equal.
	c.ok(t, "build", "--progress=none", "--set", "default.output=type=image",
		"--set", "default.tags="+host+"/app:stored")
	c.ok(t, "image", "push", host+"/app:stored")
	if s = readStatements(t, host+"/app:stored"); len(s.by) != 2 {
		t.Errorf("attested: %v", s.by)
	}
}

// TestAttestationsRefused shows the exit code and message for attestations that are malformed, that an output cannot
// have, or whose scanner fails.
func TestAttestationsRefused(t *testing.T) {
	c, host := attested(t)
	for _, bad := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--set", "default.attest=type=provenance,mode=some"}, 2, "expected min or max"},
		{[]string{"--set", "default.attest=type=provenance,capture-usage=true"}, 2, "capture-usage"},
		{[]string{"--set", "default.output=type=docker"}, 2, "does not support attestations"},
		{[]string{"--provenance=complete-materials=true", "--sbom=false"}, 1, "complete-materials"},
		{[]string{"--set", "default.attest=type=sbom,generator=" + host + "/none:1"}, 5, "none:1"},
		{[]string{"--set", "default.attest=type=sbom,generator=" + host + "/scan:1,lie=yes"}, 1,
			"not an in-toto statement"},
	} {
		_, stderr, code := c.run(t, append([]string{"build", "--progress=none"}, bad.args...)...)
		if code != bad.code || !strings.Contains(stderr, bad.want) {
			t.Errorf("%v: exit %d, want %d and %q\n%s", bad.args, code, bad.code, bad.want, stderr)
		}
	}
}

// TestAttestationsOfDaemon shows that both engines attach the same statements to an image.
func TestAttestationsOfDaemon(t *testing.T) {
	c, host := attested(t)
	d := startDaemon(t, "")
	for _, mode := range []string{"max", "min"} {
		args := []string{"build", "--progress=none", "--set", "default.attest=type=provenance,mode=" + mode}
		c.ok(t, append(args, "--set", "default.tags="+host+"/app:here")...)
		c.ok(t, append(args, "--set", "default.tags="+host+"/app:there", "--engine", d.address)...)
		here, there := readStatements(t, host+"/app:here"), readStatements(t, host+"/app:there")
		if here.index.Manifests[0].Digest != there.index.Manifests[0].Digest {
			t.Errorf("mode=%s: the images differ: %+v and %+v", mode, here.image, there.image)
		}
		var shapes []map[string]any
		for _, s := range []statements{here, there} {
			raw, err := json.Marshal(s.by[slsaType].Predicate)
			if err != nil {
				t.Fatal(err)
			}
			var p map[string]any
			if err := json.Unmarshal(raw, &p); err != nil {
				t.Fatal(err)
			}
			meta, _ := p["runDetails"].(map[string]any)["metadata"].(map[string]any)
			for _, k := range []string{"invocationId", "startedOn", "finishedOn"} {
				if meta[k] == nil {
					t.Errorf("mode=%s: the provenance has no %s", mode, k)
				}
				delete(meta, k)
			}
			shapes = append(shapes, p)
			if has := strings.Contains(string(raw), "secretive"); has != (mode == "max") {
				t.Errorf("mode=%s: has the value of a build argument: %v", mode, has)
			}
		}
		if diff := cmp.Diff(shapes[0], shapes[1]); diff != "" {
			t.Errorf("mode=%s: provenance here and there:\n%s", mode, diff)
		}
		if diff := cmp.Diff(here.by[spdxType].Predicate, there.by[spdxType].Predicate); diff != "" {
			t.Errorf("mode=%s: SBOM here and there:\n%s", mode, diff)
		}
	}
}

// TestAttestationsAsBuildKit shows that layout and statements equal those of BuildKit's own exporter.
func TestAttestationsAsBuildKit(t *testing.T) {
	c, host := attested(t)
	k := startBuildKit(t)
	c.ok(t, "build", "--progress=none")
	peer := k.command("bake", "--builder", "peer", "-f", "bake.hcl", "--set", "default.tags="+host+"/app:buildx",
		"--progress=plain")
	peer.Dir = c.dir
	if out, err := peer.CombinedOutput(); err != nil {
		t.Fatalf("buildx bake: %v\n%s", err, out)
	}
	ours, theirs := readStatements(t, host+"/app:bake"), readStatements(t, host+"/app:buildx")
	shape := func(s statements) map[string]any {
		delete(s.manifest["subject"].(map[string]any), "digest")
		delete(s.manifest["subject"].(map[string]any), "size")
		for _, l := range s.manifest["layers"].([]any) {
			delete(l.(map[string]any), "digest")
			delete(l.(map[string]any), "size")
		}
		return s.manifest
	}
	if diff := cmp.Diff(shape(theirs), shape(ours)); diff != "" {
		t.Errorf("manifest of the attestations, BuildKit's and ours:\n%s", diff)
	}
	keep := func(s statements) any { return provenanceShape(t, s.by[slsaType].Predicate) }
	if diff := cmp.Diff(keep(theirs), keep(ours), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("provenance, BuildKit's and ours:\n%s", diff)
	}
}

// provenanceShape returns a provenance without the data of one build and without what only BuildKit has: its version,
// the request of buildx around that of the frontend, the session of a context, and how the Dockerfile was read.
func provenanceShape(t *testing.T, predicate any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(predicate)
	if err != nil {
		t.Fatal(err)
	}
	var p map[string]any
	if err := json.Unmarshal(raw, &p); err != nil {
		t.Fatal(err)
	}
	at := func(path ...string) map[string]any {
		m := p
		for _, k := range path {
			m, _ = m[k].(map[string]any)
		}
		return m
	}
	request := at("buildDefinition", "externalParameters", "request")
	delete(request, "root")
	delete(request, "compatibilityVersion")
	delete(request["args"].(map[string]any), "dockerfilekey")
	meta := at("runDetails", "metadata")
	for _, k := range []string{"invocationId", "startedOn", "finishedOn"} {
		if meta[k] == nil {
			t.Errorf("the provenance has no %s", k)
		}
		delete(meta, k)
	}
	delete(at("runDetails", "metadata", "buildkit_metadata"), "layers") // of layers that another tool compressed
	source := at("runDetails", "metadata", "buildkit_metadata", "source")
	locations, _ := source["locations"].(map[string]any)
	for k, v := range locations {
		if m, _ := v.(map[string]any); len(m) == 0 {
			delete(locations, k)
		}
	}
	for _, info := range source["infos"].([]any) {
		for _, k := range []string{"llbDefinition", "digestMapping", "filename"} {
			delete(info.(map[string]any), k)
		}
	}
	config := at("buildDefinition", "internalParameters", "buildConfig")
	delete(config, "digestMapping")
	for _, step := range config["llbDefinition"].([]any) {
		op, _ := step.(map[string]any)["op"].(map[string]any)
		kind, _ := op["Op"].(map[string]any)
		if s, ok := kind["source"].(map[string]any); ok {
			delete(s, "identifier")
			delete(s, "attrs")
		}
	}
	return p
}
