package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bakebuild/bake/config"
)

// load evaluates one file for the fuzz targets. The result must be a project or diagnostics for any content.
func load(t *testing.T, name string, content []byte, set ...string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
		t.Fatal(err)
	}
	p, _, err := config.Load(t.Context(), config.Options{Dir: dir, Files: []string{name}, Set: set})
	var diags config.Diagnostics
	if err != nil && !errors.As(err, &diags) {
		t.Fatalf("the error is a %T: %v", err, err)
	}
	if err != nil && strings.TrimSpace(err.Error()) == "" {
		t.Fatal("the error has no text")
	}
	if err == nil {
		if _, err := config.Print(p); err != nil {
			t.Fatal(err)
		}
	}
}

// seeds adds the files of the test cases with an extension to the corpus.
func seeds(f *testing.F, extension string) {
	f.Helper()
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if strings.HasSuffix(file.Name, extension) {
				f.Add(file.Data)
			}
		}
	}
}

func FuzzHCL(f *testing.F) {
	seeds(f, ".hcl")
	f.Fuzz(func(t *testing.T, content []byte) { load(t, "bake.hcl", content) })
}

func FuzzJSON(f *testing.F) {
	seeds(f, ".json")
	f.Fuzz(func(t *testing.T, content []byte) { load(t, "docker-bake.json", content) })
}

func FuzzYAML(f *testing.F) {
	seeds(f, ".yaml")
	f.Fuzz(func(t *testing.T, content []byte) { load(t, "bake.yaml", content) })
}

// FuzzCompose starts from the compose files of TestAsPeer.
func FuzzCompose(f *testing.F) {
	archive, err := txtar.ParseFile("testdata/peer/compose.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range archive.Files {
		if strings.HasSuffix(file.Name, "compose.yml") {
			f.Add(file.Data)
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) { load(t, "compose.yml", content) })
}

func FuzzSet(f *testing.F) {
	for _, s := range []string{"default.tags=x", "*.args.A=1", "default.output+=type=oci", "default.secret.a=env=B",
		"a", "..=", "default.no-cache="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, set string) { load(t, "bake.hcl", []byte(`target "default" {}`), set) })
}
