package config_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bakebuild/bake/config"
)

// TestCases runs the cases in testdata. Each archive has project files, the arguments in "args", one per line (names,
// --set, --var, --env-file, -f, env:NAME=VALUE), and the expected JSON in "want" or the expected text in "error".
// BAKE_UPDATE=1 rewrites the expectations.
func TestCases(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatal(err, len(cases))
	}
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { runCase(t, file) })
	}
}

func runCase(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	kind := "want"
	for _, f := range archive.Files {
		if f.Name == "error" {
			kind = f.Name
		}
	}
	opts, want, kept := writeCase(t, archive.Files)
	got, gotKind := outcome(t, opts)
	got = strings.ReplaceAll(got, opts.Dir, "DIR")
	if os.Getenv("BAKE_UPDATE") != "" {
		archive.Files = append(kept, txtar.File{Name: gotKind, Data: []byte(got)})
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if kind != gotKind || want != got {
		t.Errorf("got %s, want %s\n%s", gotKind, kind, cmp.Diff(want, got))
	}
}

func outcome(t *testing.T, opts config.Options) (text, kind string) {
	t.Helper()
	p, warnings, err := config.Load(t.Context(), opts)
	if err != nil {
		if _, ok := err.(config.Diagnostics); !ok {
			t.Errorf("the error is a %T", err)
		}
		return err.Error() + "\n", "error"
	}
	raw, err := config.Print(p)
	if err != nil {
		t.Fatal(err)
	}
	var notes strings.Builder
	for _, w := range warnings {
		notes.WriteString("warning: " + w.Message + "\n")
	}
	return string(raw) + notes.String(), "want"
}

func readArgs(t *testing.T, opts *config.Options, env map[string]string, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch kind, rest, _ := strings.Cut(line, " "); kind {
		case "--set":
			opts.Set = append(opts.Set, rest)
		case "--var":
			opts.Vars = append(opts.Vars, rest)
		case "--env-file":
			opts.EnvFiles = append(opts.EnvFiles, rest)
		case "-f":
			opts.Files = append(opts.Files, rest)
		default:
			if pair, ok := strings.CutPrefix(line, "env:"); ok {
				name, value, _ := strings.Cut(pair, "=")
				env[name] = value
				continue
			}
			opts.Targets = append(opts.Targets, line)
		}
	}
}

// TestErrors runs the invalid projects in testdata/errors and compares text and position of the diagnostics. Each
// archive has many cases, each in a folder with the expected text in "error". BAKE_UPDATE=1 rewrites it.
func TestErrors(t *testing.T) {
	archives, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, file := range archives {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var kept []txtar.File
		cases := casesOf(archive)
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			count++
			t.Run(name, func(t *testing.T) { kept = append(kept, oneError(t, name, cases[name])...) })
		}
		if os.Getenv("BAKE_UPDATE") != "" {
			archive.Files = kept
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if count < 80 {
		t.Errorf("%d cases, want at least 80", count)
	}
}

// oneError runs one case and returns its files with the actual error.
func oneError(t *testing.T, name string, files []txtar.File) []txtar.File {
	opts, want, kept := writeCase(t, files)
	got, kind := outcome(t, opts)
	if kind != "error" {
		t.Errorf("no error:\n%s", got)
	}
	got = strings.ReplaceAll(got, opts.Dir, "DIR")
	if os.Getenv("BAKE_UPDATE") == "" && got != want {
		t.Error(cmp.Diff(want, got))
	}
	kept = append(kept, txtar.File{Name: "error", Data: []byte(got)})
	for i := range kept {
		kept[i].Name = name + "/" + kept[i].Name
	}
	return kept
}

// writeCase writes the files of a case. It returns the options, the expected output, and all files except that output.
func writeCase(t *testing.T, files []txtar.File) (opts config.Options, want string, kept []txtar.File) {
	t.Helper()
	opts.Dir = t.TempDir()
	env := map[string]string{}
	opts.Env = env
	for _, f := range files {
		switch f.Name {
		case "want", "error":
			want = string(f.Data)
			continue
		case "args":
			readArgs(t, &opts, env, string(f.Data))
		default:
			if err := os.MkdirAll(filepath.Dir(filepath.Join(opts.Dir, f.Name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(opts.Dir, f.Name), f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		kept = append(kept, f)
	}
	return opts, want, kept
}

// TestExamples checks that the examples load without warnings.
func TestExamples(t *testing.T) {
	for dir, vars := range map[string][]string{"../examples/hello": {"GOROOT=/go"}, "../examples/flask": nil} {
		abs, err := filepath.Abs(dir)
		if err != nil {
			t.Fatal(err)
		}
		p, warnings, err := config.Load(t.Context(), config.Options{Dir: abs, Vars: vars})
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v %v", dir, err, warnings)
			continue
		}
		if len(p.Requested) == 0 {
			t.Errorf("%s requests no target", dir)
		}
	}
}

// TestBombs checks that files that would need unbounded stack, memory or time end with a diagnostic; see maxDepth and
// runBounded.
func TestBombs(t *testing.T) {
	for name, c := range bombs() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
			opts := config.Options{Dir: dir, Limit: 10 * time.Minute}
			if name == "loops" {
				opts.Limit = 20 * time.Millisecond
			}
			_, _, err := config.Load(t.Context(), opts)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.300v, want %q", err, c.want)
			}
		})
	}
}

// bomb is a project file and a part of the expected diagnostic.
type bomb struct{ file, content, want string }

func bombs() map[string]bomb {
	doubling := "v0 = \"xxxxxxxxxxxxxxxx\"\n"
	for i := range 40 {
		doubling += fmt.Sprintf("v%d = \"${v%d}${v%d}\"\n", i+1, i, i)
	}
	aliases := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i, last := 0, "a"; i < 12; i++ {
		name := fmt.Sprintf("b%d", i)
		aliases += name + ": &" + name + " [" + strings.TrimSuffix(strings.Repeat("*"+last+",", 10), ",") + "]\n"
		last = name
	}
	return map[string]bomb{
		"brackets": {"bake.hcl", `target "default" { tags = ` + strings.Repeat("[", 100_000), "nested brackets"},
		"not": {"bake.hcl", `target "default" { args = { A = ` + strings.Repeat("!", 100_000),
			"operators in one expression"},
		"sum": {"bake.hcl", `target "default" { args = { A = 1` + strings.Repeat("+1", 100_000) + "} }",
			"operators in one expression"},
		"json": {"docker-bake.json", `{"target":` + strings.Repeat(`{"a":`, 100_000), "nested brackets"},
		"lines": {"bake.hcl", "target \"default\" { args = { A = (1" + strings.Repeat("\n+1", 100_000) + ") } }",
			"operators in one expression"},
		"choices": {"bake.hcl", "target \"default\" { args = { A = (" + strings.Repeat("true ?\n1 : ",
			50_000) + "1) } }", "operators in one expression"},
		"indexes": {"bake.hcl", "target \"default\" { args = { A = a" + strings.Repeat("[b]", 50_000) + " } }",
			"operators in one expression"},
		"splats": {"bake.hcl", "target \"default\" { args = { A = a" + strings.Repeat(".*", 50_000) + " } }",
			"operators in one expression"},
		"nested": {"bake.hcl", "target \"default\" { args = { A = " + strings.Repeat("1"+strings.Repeat("+1",
			300)+"+(", 300) + strings.Repeat(")", 300) + " } }", "operators in one expression"},
		"in JSON": {"docker-bake.json", `{"target":{"default":{"args":{"A":"\u0024{1` + strings.Repeat("+1",
			100_000) + `}"}}}}`, "operators in one expression"},
		"in YAML": {"bake.yaml", "target:\n  default:\n    args:\n      A: '${1" + strings.Repeat("+1",
			100_000) + "}'\n", "operators in one expression"},
		"elements": {"bake.hcl", `target "default" { tags = [` + strings.Repeat("1,", 3_000_000) + "] }",
			"split the file or the block"},
		"values": {"bake.hcl", "pad = \"" + strings.Repeat("x",
			2000) + "\"\nL = range(1000)\ntarget \"default\" { tags = [for a in L : [for b in L : " +
			"\"${pad}${a}${b}\"]] }", "MiB to evaluate"},
		"doubling": {"bake.hcl", doubling + `target "default" { tags = [v40] }`, "at most 1048576 are allowed"},
		"aliases":  {"bake.yaml", aliases + "target: {default: {}}\n", "aliases"},
		"product": {"bake.hcl", "L = range(200)\ntarget \"default\" { tags = [length(setproduct(L, L, L, L))] }",
			"more than 1048576 combinations"},
		"loops": {"bake.hcl", "L = range(200)\ntarget \"default\" { tags = [for a in L : join(\"\", [for b in L : " +
			"join(\"\", [for c in L : \"\"])])] }", "not evaluated within"},
		"wide": {"bake.hcl", "v = \"" + strings.Repeat("x",
			900_000) + "\"\ntarget \"default\" { tags = [\"" + strings.Repeat("${v}", 1000) + "\"] }",
			"in this expression exceed"},
		"matrix": {"bake.hcl", "target \"default\" {\n name = \"a-${a}-${b}\"\n matrix = {\n a = range(1000)\n b " +
			"= range(1000)\n }\n}", "more than 10000 targets"},
		"too large": {"bake.hcl", strings.Repeat("#", 17<<20), "larger than"},
	}
}
