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

// imports says what each folder may import of this module: what is not named is forbidden. The longest folder counts;
// a name that ends in a slash stands for all below it.
var imports = map[string][]string{
	"config":                {},
	"planner":               {"config"},
	"planner/pins":          {"config", "planner"},
	"executor":              {"config", "planner", "executor/registry", "executor/attest", "executor/docker"},
	"executor/attest":       {"planner"},
	"executor/docker":       {},
	"executor/imagetest":    {"config", "planner"},
	"executor/cache":        {"executor/cache/key"},
	"executor/cache/key":    {},
	"executor/keys":         {"config", "planner", "executor/cache/key", "executor/tree"},
	"executor/registry":     {"config"},
	"executor/tree":         {},
	"executor/images":       {"planner", "executor/cache", "executor/registry"},
	"executor/resolve":      {"planner", "executor/cache", "executor/images", "executor/registry"},
	"executor/builds":       {"planner", "executor", "executor/cache", "executor/cache/key", "executor/report"},
	"executor/telemetry":    {"executor", "executor/report"},
	"executor/ci":           {"planner", "executor", "executor/report"},
	"executor/terminal":     {},
	"executor/embedded":     {"config", "planner", "executor", "executor/cache", "executor/cache/key", "executor/imagetest", "executor/keys", "executor/registry", "executor/schedule", "executor/tree", "executor/embedded/"},
	"executor/schedule":     {},
	"executor/revision":     {"config", "executor/tree"},
	"executor/affected":     {"config", "planner", "executor/revision", "executor/tree"},
	"executor/watch":        {"config", "planner", "executor/affected", "executor/tree"},
	"executor/report":       {"planner", "executor"},
	"executor/buildkitd":    {"config", "planner", "executor", "executor/imagetest", "executor/registry"},
	"executor/executortest": {"config", "planner", "executor", "executor/cache", "executor/registry"},
	"cmd":                   {"config", "planner", "planner/pins", "executor", "executor/"},
	"examples":              {},
}

// onlyIn names the folders that may import a package from elsewhere, or one below it.
var onlyIn = map[string][]string{
	"github.com/moby/buildkit/frontend": {"planner"},
	// What BuildKit's client hands to those who build with it.
	"github.com/moby/buildkit/frontend/gateway": {"planner", "executor/buildkitd"},
	// The parser of git URLs, which says what is one.
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil": {"config", "planner", "executor/embedded/fetch"},
	"github.com/moby/buildkit/util/progress/progressui":      {"cmd"},
	"github.com/moby/buildkit/session":                       {"executor/buildkitd", "cmd"},
	"github.com/spf13/cobra":                                 {"cmd"},
	"github.com/pkg/errors":                                  {},
	"github.com/sirupsen/logrus":                             {},
	"github.com/spf13/viper":                                 {},
	"github.com/stretchr/testify":                            {},
	"github.com/docker/docker":                               {},
	"k8s.io":                                                 {},
}

// topLevel is all that may lie at the top of the repository.
var topLevel = []string{
	".ci", ".git", ".github", ".gitignore", "LICENSE", "README.md", "bin", "cmd", "config", "examples",
	"executor", "go.mod", "go.sum", "planner",
}

const maxLines = 500 // of a file that is not a test

// source is one Go file of the repository.
type source struct {
	path   string // from the top, with slashes
	folder string
	test   bool
	lines  int
	file   *ast.File
	text   string
}

// TestHouse holds the layout and the import order of the project's design.
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
}

func checkTop(t *testing.T, root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		ignored := strings.HasSuffix(e.Name(), ".test") || strings.HasSuffix(e.Name(), ".prof")
		if !ignored && !slices.Contains(topLevel, e.Name()) {
			t.Errorf("%s: the top of the repository has the agreed entries only", e.Name())
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
			lines: strings.Count(string(text), "\n"), file: file, text: string(text),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkImports holds the import order. Tests may use executortest besides.
func checkImports(t *testing.T, s source) {
	allowed, ok := longest(imports, s.folder)
	if !ok {
		t.Errorf("%s: the house test knows no rule for this folder", s.path)
	}
	for _, spec := range s.file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if folders, ok := longest(onlyIn, path); ok && !slices.ContainsFunc(folders, func(f string) bool { return below(s.folder, f) }) {
			t.Errorf("%s imports %s, which only %q may", s.path, path, folders)
		}
		own, isOwn := strings.CutPrefix(path, module)
		switch {
		case !isOwn, own == s.folder:
		case own == "executor/executortest" && (s.test || s.folder == "cmd/bake-bench"):
		case own == "executor/executortest":
			t.Errorf("%s imports %s, which is for tests and benchmarks", s.path, own)
		case below(s.folder, "examples") && below(own, "examples"):
		case !slices.ContainsFunc(allowed, func(a string) bool {
			return own == a || strings.HasSuffix(a, "/") && strings.HasPrefix(own, a)
		}):
			t.Errorf("%s imports %s; %s may import %q", s.path, own, s.folder, allowed)
		}
	}
}

// below says whether a path is dir or lies in it.
func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// longest gives the rule of the nearest folder.
func longest(rules map[string][]string, folder string) ([]string, bool) {
	for ; folder != "."; folder = filepath.ToSlash(filepath.Dir(folder)) {
		if r, ok := rules[folder]; ok {
			return r, true
		}
	}
	return nil, false
}

// checkFile holds what one file must not have.
func checkFile(t *testing.T, s source) {
	if name := strings.TrimSuffix(s.file.Name.Name, "_test"); slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc"}, name) {
		t.Errorf("%s: package %s says nothing about what it is for", s.path, name)
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
	if s.lines > maxLines && !ast.IsGenerated(s.file) {
		t.Errorf("%s has %d lines; at most %d are wanted", s.path, s.lines, maxLines)
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

// written gives the names that a file's functions assign to, without those that they declare.
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
		out = append(out[:before], slices.DeleteFunc(slices.Clone(out[before:]), func(name string) bool { return local[name] })...)
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
