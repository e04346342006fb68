package planner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

var update = flag.Bool("update", false, "rewrite the expected plans in testdata")

// fakeResolver resolves every image except missing. Some names have an unusual or invalid config.
type fakeResolver struct{ calls atomic.Int64 }

var errMissing = errors.New("manifest unknown")

func (f *fakeResolver) ResolveImage(_ context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	f.calls.Add(1)
	image := ocispecs.Image{
		Platform: p,
		RootFS:   ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("layer of " + ref)}},
		Config: ocispecs.ImageConfig{
			Env: []string{"PATH=/usr/bin:/bin"}, WorkingDir: "/", Cmd: []string{"sh"},
		},
		History: []ocispecs.History{{CreatedBy: "ADD rootfs"}},
	}
	layers := 1
	onbuild := []string(nil)
	name := strings.TrimPrefix(ref, "docker.io/library/")
	switch name, _, _ = strings.Cut(name, ":"); name {
	case "missing":
		return planner.ResolvedImage{}, errMissing
	case "panics":
		panic("resolver")
	case "artifact":
		return planner.ResolvedImage{Config: []byte("{}")}, nil
	case "nodiffids":
		image.RootFS.DiffIDs = nil
	case "empty":
		image.RootFS.DiffIDs, image.History, layers = nil, nil, 0
	case "bigenv":
		image.Config.Env = append(image.Config.Env, "BIG="+strings.Repeat("x", 100_000))
	case "withuser":
		image.Config.User, image.Config.WorkingDir = "app", "/home/app"
		image.Config.Env = append(image.Config.Env, "LANG=C")
	case "onbuild":
		onbuild = []string{"COPY . /src", "RUN make"}
	case "onbuildbomb":
		for range 40 {
			onbuild = append(onbuild, "ENV A=$A$A")
		}
	}
	config, err := json.Marshal(image)
	if err == nil && onbuild != nil {
		var m map[string]any
		if err = json.Unmarshal(config, &m); err == nil {
			m["config"].(map[string]any)["OnBuild"] = onbuild
			config, err = json.Marshal(m)
		}
	}
	return planner.ResolvedImage{Ref: ref, Digest: digest.FromString(ref), Config: config, Layers: layers}, err
}

// amd64 makes plans the same on every machine.
func amd64() ocispecs.Platform { return ocispecs.Platform{OS: "linux", Architecture: "amd64"} }

func options() planner.Options {
	return planner.Options{Resolver: &fakeResolver{}, Platform: amd64()}
}

// write writes files below dir.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// project returns a project whose targets are all requested, in the given order.
func project(dir string, targets ...*config.Target) *config.Project {
	p := &config.Project{Dir: dir, Targets: map[string]*config.Target{}}
	for _, t := range targets {
		p.Targets[t.Name] = t
		p.Requested = append(p.Requested, t.Name)
	}
	return p
}

// text plans a project and returns the text of the graph or of the error, with the project directory replaced by DIR.
func text(t testing.TB, p *config.Project, opts planner.Options) string {
	t.Helper()
	g, err := planner.Plan(t.Context(), p, opts)
	var b bytes.Buffer
	if err != nil {
		fmt.Fprintf(&b, "error (%s)\n%v\n", errorKinds(err), err)
	} else if err := g.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), p.Dir, "DIR")
}

func errorKinds(err error) string {
	var kinds []string
	var d *planner.DockerfileError
	var b *planner.BaseError
	if errors.As(err, &d) {
		kinds = append(kinds, "Dockerfile")
	}
	if errors.As(err, &b) {
		kinds = append(kinds, "base")
	}
	return strings.Join(kinds, ", ")
}

// TestGolden plans each testdata/*.txtar: a project (project.json holds the targets), Dockerfiles and the expected
// text.
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { golden(t, path) })
	}
}

func golden(t *testing.T, path string) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, want := readCase(t, archive, t.TempDir())
	got := text(t, p, options())
	if *update {
		want.Data = []byte(got)
		if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(want.Data), got); diff != "" {
		t.Errorf("plan differs (-want +got); run with -update to accept it:\n%s", diff)
	}
}

// readCase writes the files of a case below dir and returns its project and the file with the expected text.
func readCase(t testing.TB, archive *txtar.Archive, dir string) (*config.Project, *txtar.File) {
	t.Helper()
	p := &config.Project{}
	files := map[string]string{}
	var want *txtar.File
	for i, f := range archive.Files {
		switch f.Name {
		case "project.json":
			if err := json.Unmarshal(f.Data, p); err != nil {
				t.Fatal(err)
			}
		case "want":
			want = &archive.Files[i]
		default:
			files[f.Name] = string(f.Data)
		}
	}
	if want == nil {
		archive.Files = append(archive.Files, txtar.File{Name: "want"})
		want = &archive.Files[len(archive.Files)-1]
	}
	for name, target := range p.Targets {
		target.Name = name
	}
	write(t, dir, files)
	p.Dir = dir
	return p, want
}
