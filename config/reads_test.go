package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// readCase is a project whose files name others. OUT in them is a directory outside of the project; "-> TARGET" is a
// link. want is the end of the grant that is missing; "" if none is.
type readCase struct {
	files map[string]string
	env   map[string]string
	want  string
}

const testService = "services:\n  x:\n    build: {context: ., dockerfile: Dockerfile}\n"

// projectReads returns projects whose files include others, or have a usual name.
func projectReads() map[string]readCase {
	return map[string]readCase{
		"nothing": {map[string]string{"bake.hcl": `target "default" {}`}, nil, ""},
		"include within": {map[string]string{
			"bake.hcl": `include = ["in/*.hcl"]`, "in/a.hcl": `target "default" {}`}, nil, ""},
		"include": {map[string]string{"bake.hcl": "include = [\"OUT/a.hcl\"]\ntarget \"default\" {}"}, nil,
			"outside/a.hcl"},
		"include by pattern": {map[string]string{
			"bake.hcl": "include = [\"../outside/a*.hcl\"]\ntarget \"default\" {}"},
			nil, "outside/a.hcl"},
		"include by link": {map[string]string{"bake.hcl": "include = [\"a.hcl\"]\ntarget \"default\" {}",
			"a.hcl": "-> OUT/a.hcl"}, nil, "project/a.hcl"},
		"usual name": {map[string]string{
			"docker-bake.hcl": `target "default" {}`, "docker-bake.json": "-> OUT/x.json"}, nil,
			"docker-bake.json"},
		"variables":        {map[string]string{"compose.yaml": testService, ".env": "-> OUT/env"}, nil, "project/.env"},
		"variables within": {map[string]string{"compose.yaml": testService, ".env": "A=1"}, nil, ""},
	}
}

// composeReads returns projects whose compose files name others.
func composeReads() map[string]readCase {
	return map[string]readCase{
		"env_file": {map[string]string{
			"compose.yaml": testService + "    env_file: [OUT/env]\n"}, nil, "outside/env"},
		"env_file of a service that is not built": {map[string]string{"compose.yaml": testService +
			"  y:\n    image: y\n    env_file: ../outside/env\n"}, nil, "outside/env"},
		"extends": {map[string]string{
			"compose.yaml": testService + "    extends: {file: ../outside/c.yaml, service: x}\n"}, nil,
			"outside/c.yaml"},
		"compose include": {map[string]string{
			"compose.yaml": "include: [OUT/c.yaml]\n" + strings.ReplaceAll(testService, "x:",
				"z:")}, nil, "outside/c.yaml"},
		"include with env_file": {map[string]string{
			"compose.yaml": "include: [{path: in/c.yaml, env_file: ../outside/env}]\n",
			"in/c.yaml":    testService}, nil, "outside/env"},
		"include with a list": {map[string]string{
			"compose.yaml": "include: [{path: in/c.yaml, env_file: [a.env, OUT/env]}]\n",
			"in/c.yaml":    testService, "a.env": "A=1"}, nil, "outside/env"},
		"include with a variable": {map[string]string{
			"compose.yaml": "include: [{path: in/c.yaml, env_file: \"${O}/env\"}]\n",
			"in/c.yaml":    testService}, map[string]string{"O": "OUT"}, "outside/env"},
		"include with a variable of another file": {map[string]string{
			"compose.yaml": "include: [{path: in/b.yaml, env_file: o.env}]\n", "o.env": "O=OUT",
			"in/b.yaml": "include: [{path: c.yaml, env_file: \"${O}/env\"}]\n" + strings.ReplaceAll(testService,
				"x:", "z:"),
			"in/c.yaml": testService}, nil, "fs.read=/"},
		"include with a directory": {map[string]string{
			"compose.yaml": "include: [{path: in/c.yaml, project_directory: ../outside}]\n",
			"in/c.yaml":    testService}, nil,
			"outside/.env"},
		"include with a link": {map[string]string{"compose.yaml": "include: [in/c.yaml]\n", "in/c.yaml": testService,
			"in/.env": "-> OUT/env"}, nil, "in/.env"},
		"secret of compose": {map[string]string{
			"compose.yaml": strings.Replace(testService, "ile}", "ile, secrets: [s]}", 1) +
				"secrets: {s: {file: \"~/token\"}}\n"}, map[string]string{"HOME": "OUT"}, "outside/token"},
		"contexts of compose": {map[string]string{"compose.yaml": strings.Replace(testService, "ile}",
			"ile, additional_contexts: {a: ../outside}}", 1)}, nil, "../outside"},
		"Dockerfile of compose": {map[string]string{"compose.yaml": strings.Replace(testService, "Dockerfile",
			"OUT/env", 1)}, nil, "outside/env"},
		"Dockerfile of compose with a URL": {map[string]string{"compose.yaml": strings.NewReplacer("Dockerfile",
			"OUT/env", "context: .", "context: https://example.com/x.git").Replace(testService)}, nil, "outside/env"},
		"structure": {map[string]string{
			"bake.hcl": "target \"default\" {\n  test \"s\" { structure = \"../outside/s.yaml\" }\n}"}, nil,
			"outside/s.yaml"},
		"certificates": {map[string]string{"bake.hcl": "registry \"r.example.com\" { ca = [\"OUT/ca.pem\"] }\n" +
			`target "default" {}`}, nil, "outside/ca.pem"},
	}
}

// TestGrantsOfProjectFiles shows that a project file makes Load read files outside the project only with a grant: what
// they contain could become a build argument, which a step could send anywhere.
func TestGrantsOfProjectFiles(t *testing.T) {
	cases := projectReads()
	maps.Copy(cases, composeReads())
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			outside, project := filepath.Join(dir, "outside"), filepath.Join(dir, "project")
			place := func(s string) string { return strings.ReplaceAll(s, "OUT", outside) }
			for path, content := range map[string]string{
				"outside/a.hcl": `variable "A" { default = "1" }`, "outside/x.json": `{"secret":"s"}`,
				"outside/env": "A=1", "outside/.env": "A=1", "outside/c.yaml": testService,
				"outside/s.yaml": "schemaVersion: 2.0.0\n", "outside/token": "t", "project/Dockerfile": "FROM scratch",
			} {
				writeTestFile(t, filepath.Join(dir, path), content)
			}
			for path, content := range c.files {
				at := filepath.Join(project, path)
				if to, isLink := strings.CutPrefix(place(content), "-> "); isLink {
					if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.Symlink(to, at); err != nil {
						t.Fatal(err)
					}
					continue
				}
				writeTestFile(t, at, place(content))
			}
			env := map[string]string{}
			for name, value := range c.env {
				env[name] = place(value)
			}
			targets := []string{"default"}
			p, _, err := Load(t.Context(), Options{Dir: project, Env: env, Targets: targets})
			if err != nil {
				t.Fatal(err)
			}
			missing, err := Grants{}.Missing(p, true)
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" && len(missing) > 0 || c.want != "" && !slices.ContainsFunc(missing,
				func(m string) bool { return strings.HasPrefix(m, "fs.read=") && strings.HasSuffix(m, c.want) }) {
				t.Errorf("missing %v, want %q", missing, c.want)
			}
			if len(c.files["compose.yaml"]) > 0 {
				writeTestFile(t, filepath.Join(dir, ".git/HEAD"), "ref: refs/heads/main")
				p, _, err := Load(t.Context(), Options{Dir: project, Env: env, Targets: targets})
				if err != nil {
					t.Fatal(err)
				}
				if again, _ := (Grants{}).Missing(p, true); strings.HasSuffix(name, "extends") && len(again) > 0 {
					t.Errorf("a compose file extends one of the same repository: %v", again)
				}
			}
		})
	}
}

// TestNamedFilesNeedNoGrant shows that files that the user names, and what they include next to them, may be anywhere.
func TestNamedFilesNeedNoGrant(t *testing.T) {
	dir := t.TempDir()
	writeTestFile(t, filepath.Join(dir, "other/bake.hcl"), `include = ["more/a.hcl"]`)
	project := filepath.Join(dir, "project")
	writeTestFile(t, filepath.Join(dir, "other/more/a.hcl"),
		fmt.Sprintf("target \"default\" {\n  context = %q\n}", project))
	if err := os.Mkdir(project, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../other/bake.hcl", filepath.Join(dir, "other/bake.hcl")} {
		p, _, err := Load(t.Context(), Options{Dir: project, Files: []string{name}})
		if err != nil {
			t.Fatal(err)
		}
		if missing, err := (Grants{}).Missing(p, true); err != nil || len(missing) > 0 {
			t.Errorf("%s: %v, %v", name, missing, err)
		}
	}
}

// TestHomeIsNoRepository shows that a repository of the home directory does not make its files readable.
func TestHomeIsNoRepository(t *testing.T) {
	home := t.TempDir()
	writeTestFile(t, filepath.Join(home, ".git/HEAD"), "ref: refs/heads/main")
	if got := gitRoot(filepath.Join(home, "src/project"), home); got != "" {
		t.Errorf("the root is %s", got)
	}
	if got := gitRoot(filepath.Join(home, "src/project"), "/elsewhere"); got != home {
		t.Errorf("the root is %q, want %s", got, home)
	}
}

func writeTestFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
