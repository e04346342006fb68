package main_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	maxLines     = 450 // of a file, tests included
	maxFuncLines = 60  // of a function, tests included
	maxColumns   = 120 // of a line; a tab counts as tabColumns
	tabColumns   = 4
)

// TestLimits holds the sizes at which files and functions are split, and the order of imports.
func TestLimits(t *testing.T) {
	for _, s := range readSources(t, "../..") {
		if ast.IsGenerated(s.file) {
			continue
		}
		if s.lines > maxLines {
			t.Errorf("%s has %d lines, more than %d: split it by purpose", s.path, s.lines, maxLines)
		}
		checkFuncLines(t, s)
		checkColumns(t, s)
		if problem := importProblem(s); problem != "" {
			t.Errorf("%s: %s", s.path, problem)
		}
	}
}

func checkFuncLines(t *testing.T, s source) {
	for _, decl := range s.file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := s.lineOf(f.End()) - s.lineOf(f.Pos()) + 1; n > maxFuncLines {
			t.Errorf("%s: function %s has %d lines, more than %d", s.path, f.Name.Name, n, maxFuncLines)
		}
	}
}

// checkColumns reports lines that are too long. Lines of raw strings are data, and a line of one word cannot be broken.
func checkColumns(t *testing.T, s source) {
	raw := rawLines(s)
	for i, line := range strings.Split(s.text, "\n") {
		columns := utf8.RuneCountInString(line) + (tabColumns-1)*strings.Count(line, "\t")
		if columns > maxColumns && !raw[i+1] && len(strings.Fields(strings.TrimLeft(line, "/ \t"))) > 1 {
			t.Errorf("%s:%d has %d columns, more than %d", s.path, i+1, columns, maxColumns)
		}
	}
}

// rawLines returns the numbers of the lines that raw strings of several lines cover.
func rawLines(s source) map[int]bool {
	lines := map[int]bool{}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.Contains(lit.Value, "\n") {
			for line := s.lineOf(lit.Pos()); line <= s.lineOf(lit.End()); line++ {
				lines[line] = true
			}
		}
		return true
	})
	return lines
}

// importProblem describes what is wrong with the imports of a file, or returns "". They stand in three groups, each
// after a blank line: the standard library, other modules, this module.
func importProblem(s source) string {
	last, lastLine := 0, 0
	for _, spec := range s.file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err.Error()
		}
		line, group := s.lineOf(spec.Pos()), importGroup(path)
		apart := lastLine > 0 && line > lastLine+1
		switch {
		case group < last:
			return fmt.Sprintf("import %s stands after a later group; order: standard library, other modules, this "+
				"module", path)
		case last > 0 && group > last && !apart:
			return fmt.Sprintf("import %s begins a group without a blank line in front", path)
		case group == last && apart && spec.Doc == nil: // the lines of its comment are not a gap
			return fmt.Sprintf("import %s is apart from its group", path)
		}
		last, lastLine = group, s.lineOf(spec.End())
	}
	return ""
}

func importGroup(path string) int {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case strings.HasPrefix(path, module):
		return 3
	case strings.Contains(first, "."):
		return 2
	}
	return 1
}
