package scaffold_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
	"github.com/bakebuild/bake/planner/scaffold"
)

// TestNew runs the trees in testdata. Each archive has the files of a repository, the expected project file in "want",
// and the expected notes in "notes". "print" has --print of the compose file, where that must not change.
// BAKE_UPDATE=1 rewrites the expectations.
func TestNew(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal(err, len(archives))
	}
	for _, file := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { runTree(t, file) })
	}
}

func runTree(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "shop")
	var kept []txtar.File
	want := map[string]string{}
	for _, f := range archive.Files {
		if f.Name == "want" || f.Name == "notes" {
			want[f.Name] = string(f.Data)
			continue
		}
		kept = append(kept, f)
		write(t, filepath.Join(dir, f.Name), string(f.Data))
	}
	p, err := scaffold.New(t.Context(), config.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(append(p.Notes, ""), "\n")
	if os.Getenv("BAKE_UPDATE") != "" {
		archive.Files = append(kept, txtar.File{Name: "want", Data: []byte(p.Text)})
		if notes != "" {
			archive.Files = append(archive.Files, txtar.File{Name: "notes", Data: []byte(notes)})
		}
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(want["want"], p.Text); d != "" {
		t.Errorf("project file: want -, got +\n%s", d)
	}
	if d := cmp.Diff(want["notes"], notes); d != "" {
		t.Errorf("notes: want -, got +\n%s", d)
	}
	checkPlans(t, dir, p.Text)
	if strings.Contains(p.Text+notes, "hunter2") {
		t.Errorf("the value of an env file is in the project file:\n%s", p.Text)
	}
}

// checkPlans writes a project file and plans its group "default", as bake init && bake plan would.
func checkPlans(t *testing.T, dir, text string) {
	t.Helper()
	write(t, filepath.Join(dir, "bake.hcl"), text)
	project, warnings, err := config.Load(t.Context(), config.Options{Dir: dir})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	missing, err := config.Grants{}.Missing(project, true)
	if err != nil || len(missing) > 0 {
		t.Error("the group needs grants:", missing, err)
	}
	_, err = planner.Plan(t.Context(), project, planner.Options{Resolver: images{}, Fetcher: urls{t.TempDir()}})
	if err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}

// images resolves every reference to an image with one layer.
type images struct{}

func (images) ResolveImage(_ context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	layer := digest.FromString(ref)
	raw, err := json.Marshal(ocispecs.Image{
		Platform: p, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer}},
	})
	return planner.ResolvedImage{Digest: layer, Config: raw, Layers: 1}, err
}

// urls fetches every URL as a directory with a Dockerfile.
type urls struct{ dir string }

// Context implements planner.Fetcher.
func (u urls) Context(context.Context, planner.Remote) (planner.Fetched, error) {
	file := filepath.Join(u.dir, "Dockerfile")
	return planner.Fetched{Dir: u.dir}, os.WriteFile(file, []byte("FROM scratch\n"), 0o644)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestSamePrint checks that a converted compose file evaluates to the same targets in every environment.
func TestSamePrint(t *testing.T) {
	const compose = `
services:
  web:
    image: acme/web:${TAG:-1}
    build:
      context: ./web
      args: {A: "1", B: "$$HOME", C: "$${x}", D: "${D}", E: , F: "${F:+set}", G: "${TAG:-1}-${G:-${D}}",
        H: "$$$${D}$$${D}%$D", I: "${F:-f}${E:-e}", J: "${for:-x}", K: "~/x", "for": , L: "a\"b\\ue0000\\ue001"}
      labels: {l: "%{if}"}
      secrets: [token]
      additional_contexts: {db: "service:db"}
      ulimits: {nofile: {soft: 1, hard: 2}}
      x-bake: {platforms: [linux/amd64, linux/arm64], output: [type=docker], no-cache-filter: a b}
  db:
    build: {dockerfile_inline: "FROM scratch\nENV X=$${Y}\n", no_cache: true, shm_size: "${SHM:-64m}"}
secrets: {token: {environment: TOKEN}}
`
	dir := t.TempDir()
	write(t, filepath.Join(dir, "compose.yaml"), compose)
	write(t, filepath.Join(dir, "web/Dockerfile"), "FROM scratch\n")
	p, err := scaffold.New(t.Context(), config.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "bake.hcl"), p.Text)
	for _, env := range []map[string]string{
		{}, {"TAG": "2", "D": "d", "E": "e", "F": "f"}, {"G": "g", "D": "x y"}, {"for": "4"},
	} {
		want := printed(t, dir, "compose.yaml", env)
		if got := printed(t, dir, "bake.hcl", env); got != want {
			t.Errorf("%v\n%s\n%s", env, p.Text, cmp.Diff(want, got))
		}
	}
}

func printed(t *testing.T, dir, file string, env map[string]string) string {
	t.Helper()
	p, _, err := config.Load(t.Context(), config.Options{Dir: dir, Files: []string{file}, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := config.Print(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
