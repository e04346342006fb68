package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/bakebuild/bake/config"
)

func newSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	raw, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("bake.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("bake.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestSchema checks that every YAML and JSON project file of the test cases and examples, and all printed output, is
// valid by the schema, and that files with unknown attributes or wrong types are not.
func TestSchema(t *testing.T) {
	schema := newSchema(t)
	count := 0
	for name, content := range projectFiles(t) {
		count++
		if err := validate(schema, content); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if count < 10 {
		t.Errorf("only %d files", count)
	}
	for _, bad := range []string{
		"target: {a: {tagz: [x]}}", "target: {a: {args: [1]}}", "target: [a]", "group: {g: {members: [a]}}",
		"base: {go: {imag: x}}",
		"variable: {v: {validation: {conditions: true}}}", "target: {a: {no-cache: [true]}}",
		"target: {a: {test: {x: {comand: [a]}}}}", "include: {a: b}",
	} {
		if err := validate(schema, []byte(bad)); err == nil {
			t.Errorf("%s must be invalid", bad)
		}
	}
}

func validate(schema *jsonschema.Schema, content []byte) error {
	var v any
	if err := yaml.Unmarshal(content, &v); err != nil {
		return err
	}
	raw, err := json.Marshal(v) // numbers as in JSON
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return schema.Validate(doc)
}

// projectFiles returns the files of the successful test cases, their printed output, and that of the examples.
func projectFiles(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			isOurs := strings.HasSuffix(f.Name, ".yaml") || strings.HasSuffix(f.Name, ".json")
			switch {
			case strings.Contains(name, "/err-") || strings.Contains(name, "/warn-"):
			case isOurs && !strings.Contains(f.Name, "compose"):
				all[name+"/"+f.Name] = f.Data
			case f.Name == "want":
				text, _, _ := strings.Cut(string(f.Data), "\nwarning: ")
				all[name+"/want"] = []byte(text)
			}
		}
	}
	for dir, vars := range map[string][]string{"../examples/hello": {"GOROOT=/go"}, "../examples/flask": nil} {
		abs, err := filepath.Abs(dir)
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := config.Load(t.Context(), config.Options{Dir: abs, Vars: vars})
		if err != nil {
			t.Fatal(err)
		}
		if all[dir], err = config.Print(p); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestIncludeBelowMetaCharacters checks that the directory of the including file is not part of a pattern.
func TestIncludeBelowMetaCharacters(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[a]*")
	for name, content := range map[string]string{
		"p[1]/bake.hcl": `include = ["one.hcl", "t*.hcl"]`, "p[1]/one.hcl": `target "one" {}`,
		"p[1]/two.hcl": `target "two" {}`, "p1/three.hcl": `target "three" {}`,
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755),
			os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	p, _, err := config.Load(t.Context(), config.Options{Dir: dir, Files: []string{"p[1]/bake.hcl"},
		Targets: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(p.Targets)), []string{"one", "two"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestBlocks checks base, policy and registry blocks.
func TestBlocks(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"bake.hcl": `
include = ["team/bake.hcl"]
variable "GO" { default = "1.26" }
base "go" {
  image     = "golang:${GO}"
  platforms = ["linux/amd64"]
}
policy "pinned" {
  rule    = "base.pinned"
  message = "pin it"
}
policy "latest" {
  rule  = "base.tag != 'latest'"
  level = "warn"
}
target "default" {}
`,
		"team/bake.hcl": "registry \"acme.example\" {\n  mirrors = [\"mirror.example\"]\n  plain-http = true\n  ca = " +
			"[\"ca.pem\"]\n}\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, "team"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, _, err := config.Load(t.Context(), config.Options{Dir: dir, Env: map[string]string{"GO": "1.27"}})
	if err != nil {
		t.Fatal(err)
	}
	base, pinned, latest, registry := p.Bases["go"], p.Policies["pinned"], p.Policies["latest"],
		p.Registries["acme.example"]
	if base.Image != "golang:1.27" || len(base.Platforms) != 1 || base.Range.Line != 4 {
		t.Errorf("base %+v", base)
	}
	if pinned.Rule != "base.pinned" || pinned.Warn || pinned.Message != "pin it" || !latest.Warn {
		t.Errorf("policies %+v %+v", pinned, latest)
	}
	if !registry.PlainHTTP || !cmp.Equal(registry.CA, []string{"team/ca.pem"}) || !cmp.Equal(registry.Mirrors,
		[]string{"mirror.example"}) {
		t.Errorf("registry %+v", registry)
	}
}
