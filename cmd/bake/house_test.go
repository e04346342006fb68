package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/bakebuild/bake/"

// imports lists what each folder may import of this module; everything else is forbidden. The longest folder counts. A
// name that ends in a slash stands for all folders below it. One row a line, sorted.
var imports = map[string][]string{
	"cmd":                {"config", "planner", "planner/pins", "planner/scaffold", "executor", "executor/"},
	"config":             {},
	"examples":           {},
	"executor":           {"config", "planner", "executor/attest", "executor/docker", "executor/registry"},
	"executor/affected":  {"config", "planner", "executor/revision", "executor/tree"},
	"executor/attest":    {"planner"},
	"executor/buildkitd": {"config", "planner", "executor", "executor/imagetest", "executor/registry"},
	"executor/builds":    {"planner", "executor", "executor/cache", "executor/cache/key", "executor/report"},
	"executor/cache":     {"executor/cache/key"},
	"executor/cache/key": {},
	"executor/ci":        {"planner", "executor", "executor/report"},
	"executor/dial":      {},
	"executor/docker":    {},
	"executor/doctor": {"executor/buildkitd", "executor/cache", "executor/docker", "executor/embedded/",
		"executor/registry"},
	"executor/executortest": {"config", "planner", "executor", "executor/cache", "executor/registry"},
	"executor/images":       {"planner", "executor/cache", "executor/registry"},
	"executor/imagetest":    {"config", "planner"},
	"executor/keys":         {"config", "planner", "executor/cache/key", "executor/tree"},
	"executor/registry":     {"config"},
	"executor/report":       {"planner", "executor"},
	"executor/resolve":      {"planner", "executor/cache", "executor/images", "executor/registry"},
	"executor/revision":     {"config", "executor/tree"},
	"executor/schedule":     {},
	"executor/telemetry":    {"executor", "executor/report"},
	"executor/terminal":     {},
	"executor/tree":         {},
	"executor/watch":        {"config", "planner", "executor/affected", "executor/tree"},
	"planner":               {"config"},
	"planner/pins":          {"config", "planner"},
	"planner/scaffold":      {"config", "planner"},

	"executor/embedded": {
		"config", "planner", "executor", "executor/cache", "executor/cache/key", "executor/imagetest", "executor/keys",
		"executor/registry", "executor/schedule", "executor/tree", "executor/embedded/",
	},
	"executor/embedded/cgroup": {"executor/embedded/sandbox"},
	"executor/embedded/fetch": {"executor/cache", "executor/dial", "executor/embedded/fileop",
		"executor/embedded/idmap", "executor/embedded/layerfs", "executor/tree", "planner"},
	"executor/embedded/fileop": {"executor/embedded/idmap", "executor/embedded/layerfs", "executor/keys",
		"executor/tree"},
	"executor/embedded/idmap":   {},
	"executor/embedded/layerfs": {"executor/tree"},
	"executor/embedded/layers":  {"executor/embedded/idmap", "executor/tree"},
	"executor/embedded/network": {},
	"executor/embedded/remotecache": {
		"config", "executor/cache", "executor/cache/key", "executor/embedded/layers", "executor/registry",
	},
	"executor/embedded/sandbox": {"executor/embedded/idmap"},
	"executor/embedded/scratch": {"executor/cache", "executor/schedule", "executor/embedded/idmap",
		"executor/embedded/sandbox"},
	"executor/embedded/seccomp": {},
}

// commandImports lists the packages of this module that cmd/bake imports, and for what. A row that nothing uses fails
// too: cmd/bake is flags, output and exit codes, and a new row needs a reason why the logic behind it cannot live
// elsewhere.
var commandImports = map[string]string{
	"config":                    "load project files; print projects and diagnostics",
	"planner":                   "plan, and print graphs",
	"planner/pins":              "pin, update, outdated, verify, --lock",
	"planner/scaffold":          "init",
	"executor":                  "options, reports and errors of builds",
	"executor/affected":         "affected",
	"executor/buildkitd":        "--engine and engine blocks",
	"executor/builds":           "record builds; builds, report, explain",
	"executor/cache":            "open the cache; cache du, check, prune",
	"executor/ci":               "summaries and annotations of CI services",
	"executor/dial":             "guard the connections of a remote definition; help git with them",
	"executor/docker":           "the exit code of a Docker engine's errors; the plugin of docker build",
	"executor/doctor":           "doctor",
	"executor/embedded":         "the engine of this process",
	"executor/embedded/fetch":   "fetch git repositories and URLs for contexts and definitions",
	"executor/embedded/idmap":   "recognize errors about missing subordinate ids",
	"executor/embedded/sandbox": "enter an unprivileged user's namespace once per command; start as init of a step",
	"executor/embedded/scratch": "find a place for layers before the command opens the cache",
	"executor/images":           "image …, history",
	"executor/keys":             "take fingerprints for affected and --watch",
	"executor/registry":         "the registry client; image push",
	"executor/report":           "print runs; report, graph",
	"executor/resolve":          "resolve bases for all commands that plan",
	"executor/telemetry":        "export a build to an OpenTelemetry collector",
	"executor/terminal":         "the terminal of --debug-shell",
	"executor/tree":             "patches of the working tree for fingerprints",
	"executor/watch":            "build --watch",
}

// onlyIn lists the folders that may import a third-party package, or one below it.
var onlyIn = map[string][]string{
	"github.com/moby/buildkit/frontend": {"planner"},
	// The types of BuildKit's client for its callers.
	"github.com/moby/buildkit/frontend/gateway": {"planner", "executor/buildkitd"},
	// The parser that decides what a git URL is.
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil": {"config", "planner", "executor/embedded/fetch"},
	"github.com/moby/buildkit/util/progress/progressui":      {"cmd"},
	"github.com/moby/buildkit/session":                       {"executor/buildkitd", "cmd"},
	"github.com/fsnotify/fsnotify":                           {"executor/watch"},
	"gvisor.dev/gvisor":                                      {"executor/embedded/network"},
	"cel.dev/cel-go":                                         {"planner"},
	"github.com/spf13/cobra":                                 {"cmd"},
	"github.com/pkg/errors":                                  {},
	"github.com/sirupsen/logrus":                             {"cmd"}, // writes the log of libraries like warnings
	"github.com/spf13/viper":                                 {},
	"github.com/stretchr/testify":                            {},
	"github.com/docker/docker":                               {},
	"k8s.io":                                                 {},
}

// topLevel lists the entries that the top of the repository may have.
var topLevel = []string{
	".ci", ".git", ".github", ".gitignore", "LICENSE", "README.md", "bin", "cmd", "config", "examples",
	"executor", "go.mod", "go.sum", "planner",
}

// source is one Go file of the repository.
type source struct {
	path   string // from the top, with slashes
	folder string
	test   bool
	lines  int
	file   *ast.File
	files  *token.FileSet // of file's positions
	text   string
}

func (s source) lineOf(p token.Pos) int { return s.files.Position(p).Line }

// TestHouse holds the layout and the import order of the project.
func TestHouse(t *testing.T) {
	root := "../.."
	checkTop(t, root)
	sources := readSources(t, root)
	packages := map[string][]source{}
	for _, s := range sources {
		checkImports(t, s)
		checkFile(t, s)
		if !s.test {
			packages[s.folder] = append(packages[s.folder], s)
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(packages)) {
		checkVariables(t, packages[folder])
	}
	checkCommand(t, packages["cmd/bake"])
}

// checkCommand compares what cmd/bake imports of this module with commandImports.
func checkCommand(t *testing.T, files []source) {
	imported := map[string]bool{}
	for _, s := range files {
		for _, spec := range s.file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if own, ok := strings.CutPrefix(path, module); ok {
				imported[own] = true
				if commandImports[own] == "" {
					t.Errorf("%s imports %s, for which commandImports has no reason", s.path, own)
				}
			}
		}
	}
	for own := range commandImports {
		if !imported[own] {
			t.Errorf("commandImports has a row for %s, which cmd/bake does not import", own)
		}
	}
}

func checkTop(t *testing.T, root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		ignored := strings.HasSuffix(e.Name(), ".test") || strings.HasSuffix(e.Name(), ".prof")
		if !ignored && !slices.Contains(topLevel, e.Name()) {
			t.Errorf("%s: topLevel does not list this entry", e.Name())
		}
	}
}

func readSources(t *testing.T, root string) []source {
	t.Helper()
	var out []source
	files := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(strings.TrimPrefix(path, root), string(filepath.Separator)))
		switch {
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != root):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(rel, ".go") || !strings.Contains(rel, "/"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(files, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		out = append(out, source{
			path: rel, folder: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(rel, "_test.go"),
			lines: strings.Count(string(text), "\n"), file: file, files: files, text: string(text),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkImports holds the import order. Tests may also use executortest, and those of the embedded engine all its parts.
func checkImports(t *testing.T, s source) {
	allowed, ok := longest(imports, s.folder)
	if !ok {
		t.Errorf("%s: imports has no row for this folder", s.path)
	}
	for _, spec := range s.file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if folders, ok := longest(onlyIn, path); ok &&
			!slices.ContainsFunc(folders, func(f string) bool { return below(s.folder, f) }) {
			t.Errorf("%s imports %s, which only %q may", s.path, path, folders)
		}
		own, isOwn := strings.CutPrefix(path, module)
		switch {
		case !isOwn, own == s.folder:
		case own == "executor/executortest" && (s.test || s.folder == "cmd/bake-bench"):
		case own == "executor/executortest":
			t.Errorf("%s imports %s, which is for tests and benchmarks", s.path, own)
		case below(s.folder, "examples") && below(own, "examples"):
		case s.test && below(s.folder, "executor/embedded") && below(own, "executor/embedded"):
		case !slices.ContainsFunc(allowed, func(a string) bool {
			return own == a || strings.HasSuffix(a, "/") && strings.HasPrefix(own, a)
		}):
			t.Errorf("%s imports %s; %s may import %q", s.path, own, s.folder, allowed)
		}
	}
}

// below reports whether a path is dir or lies in it.
func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// longest returns the rule of the nearest folder.
func longest(rules map[string][]string, folder string) ([]string, bool) {
	for ; folder != "."; folder = filepath.ToSlash(filepath.Dir(folder)) {
		if r, ok := rules[folder]; ok {
			return r, true
		}
	}
	return nil, false
}

// checkFile reports what no file may have.
func checkFile(t *testing.T, s source) {
	vague := []string{"util", "utils", "common", "helper", "helpers", "misc"}
	if name := strings.TrimSuffix(s.file.Name.Name, "_test"); slices.Contains(vague, name) {
		t.Errorf("%s: package %s has a name that does not say what it is for", s.path, name)
	}
	for _, group := range s.file.Comments {
		// The marks of unfinished work, which are forbidden here and so stand nowhere else.
		for _, word := range []string{"TODO", "FIXME", "XXX", "HACK"} {
			if strings.Contains(group.Text(), word) {
				t.Errorf("%s: a comment has %s", s.path, word)
			}
		}
	}
	if s.test || below(s.folder, "examples") {
		return
	}
	for _, decl := range s.file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			t.Errorf("%s has an init function", s.path)
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "panic" {
				t.Errorf("%s panics", s.path)
			}
		}
		return true
	})
}

// checkVariables finds package variables that change: those without a value, and those that are written anywhere in
// their package. It goes by name, so a local variable should not bear a package variable's name.
func checkVariables(t *testing.T, files []source) {
	vars := map[string]string{}
	for _, s := range files {
		for _, decl := range s.file.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				v := spec.(*ast.ValueSpec)
				embedded := d.Doc != nil && strings.Contains(s.text, "//go:embed")
				for _, name := range v.Names {
					if name.Name == "_" {
						continue
					}
					if len(v.Values) == 0 && !embedded {
						t.Errorf("%s: package variable %s has no value, so it is meant to change", s.path, name.Name)
					}
					vars[name.Name] = s.path
				}
			}
		}
	}
	if len(vars) == 0 {
		return
	}
	for _, s := range files {
		for _, name := range written(s.file) {
			if at, ok := vars[name]; ok {
				t.Errorf("%s writes the package variable %s of %s", s.path, name, at)
			}
		}
	}
}

// written returns the names that the functions of a file assign to, except those that they declare.
func written(file *ast.File) []string {
	var out []string
	add := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			case *ast.Ident:
				out = append(out, x.Name)
				return
			default:
				return
			}
		}
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		before := len(out)
		local := map[string]bool{}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				for _, name := range n.Names {
					local[name.Name] = true
				}
			case *ast.ValueSpec:
				for _, name := range n.Names {
					local[name.Name] = true
				}
			case *ast.RangeStmt:
				declare(local, n.Tok, n.Key, n.Value)
			case *ast.AssignStmt:
				declare(local, n.Tok, n.Lhs...)
				if n.Tok != token.DEFINE {
					for _, e := range n.Lhs {
						add(e)
					}
				}
			case *ast.IncDecStmt:
				add(n.X)
			}
			return true
		})
		out = append(out[:before], slices.DeleteFunc(slices.Clone(out[before:]),
			func(name string) bool { return local[name] })...)
	}
	return out
}

func declare(local map[string]bool, tok token.Token, names ...ast.Expr) {
	if tok != token.DEFINE {
		return
	}
	for _, e := range names {
		if id, ok := e.(*ast.Ident); ok {
			local[id.Name] = true
		}
	}
}
