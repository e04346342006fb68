package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bakebuild/bake/config"
)

// TestCases runs the cases of testdata: project files, what is asked for in "args" (one argument a line: names, and
// --set, --var, -f, env:NAME=VALUE), and the JSON in "want" or the text in "error". BAKE_UPDATE=1 writes these two anew.
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
	dir := t.TempDir()
	want, kind := "", "want"
	opts := config.Options{Dir: dir}
	env := map[string]string{}
	var kept []txtar.File
	for _, f := range archive.Files {
		switch f.Name {
		case "want", "error":
			want, kind = string(f.Data), f.Name
			continue
		case "args":
			readArgs(t, &opts, env, string(f.Data))
		default:
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f.Name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		kept = append(kept, f)
	}
	opts.Env = func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	got, gotKind := outcome(t, opts)
	got = strings.ReplaceAll(got, dir, "DIR")
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

// TestExamples: the examples load.
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
			t.Errorf("%s asks for nothing", dir)
		}
	}
}

// TestBombs: what would take a stack, a memory or a time without bound ends with a diagnostic.
func TestBombs(t *testing.T) {
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
	cases := map[string]struct{ file, content, want string }{
		"brackets":  {"bake.hcl", `target "default" { tags = ` + strings.Repeat("[", 100_000), "brackets are open"},
		"not":       {"bake.hcl", `target "default" { args = { A = ` + strings.Repeat("!", 100_000), "operators stand in one line"},
		"sum":       {"bake.hcl", `target "default" { args = { A = 1` + strings.Repeat("+1", 3_000_000) + "} }", "signs"},
		"json":      {"docker-bake.json", `{"target":` + strings.Repeat(`{"a":`, 100_000), "brackets are open"},
		"doubling":  {"bake.hcl", doubling + `target "default" { tags = [v40] }`, "at most 1048576 are allowed"},
		"aliases":   {"bake.yaml", aliases + "target: {default: {}}\n", "aliases"},
		"loops":     {"bake.hcl", "L = range(300)\ntarget \"default\" { tags = [for a in L : join(\"\", [for b in L : join(\"\", [for c in L : \"\"])])] }", "not evaluated within"},
		"wide":      {"bake.hcl", "v = \"" + strings.Repeat("x", 900_000) + "\"\ntarget \"default\" { tags = [\"" + strings.Repeat("${v}", 1000) + "\"] }", "stand for more than"},
		"matrix":    {"bake.hcl", "target \"default\" {\n name = \"a-${a}-${b}\"\n matrix = {\n a = range(1000)\n b = range(1000)\n }\n}", "more than 10000 targets"},
		"too large": {"bake.hcl", strings.Repeat("#", 17<<20), "larger than"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
			_, _, err := config.Load(t.Context(), config.Options{Dir: dir, Limit: 300 * time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.300v, want %q", err, c.want)
			}
		})
	}
}
