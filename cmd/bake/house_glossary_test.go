package main_test

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// replacedTerms are words of this project's past, each with the field's word for it (.github/CONTRIBUTING.md has the
// glossary). None may be a part of a declared name, of a file name, or of a message.
var replacedTerms = map[string]string{
	"berth": "worker", "berths": "workers",
	"points": "mountpoints",
	"carry":  "import or export", "carried": "imported", "carries": "imports or exports",
	"carrying": "importing or exporting",
	"form":     "compression or encoding", "reform": "recompress", "reformed": "recompressed",
	"judge": "check", "judged": "checked", "judges": "checks",
	"claims": "conflicts",
	"words":  "text or lines",
	"prints": "fingerprints",
	"told":   "reported", "made": "created or built",
	"wanted": "want", "came": "got",
	"sound": "acyclic", "selfish": "uses itself",
	"offer": "candidate", "offers": "candidates", "offered": "provided",
	"taken":  "used",
	"circle": "cycle", "circles": "cycles",
}

// formatStrings are strings that must keep a replaced word, because files and keys on users' disks have it.
var formatStrings = []string{}

// TestGlossary forbids the replaced words where the next reader would learn them.
func TestGlossary(t *testing.T) {
	for _, s := range readSources(t, "../..") {
		checkFileName(t, s)
		checkNames(t, s)
		if !s.test && !below(s.folder, "examples") {
			checkMessages(t, s)
		}
	}
}

func checkFileName(t *testing.T, s source) {
	for _, word := range nameParts(strings.TrimSuffix(path.Base(s.path), ".go")) {
		if better, ok := replacedTerms[word]; ok {
			t.Errorf("%s: the file name has %q; the word is %s", s.path, word, better)
		}
	}
}

// checkNames looks at every name that the file declares.
func checkNames(t *testing.T, s source) {
	for _, id := range declared(s.file) {
		for _, word := range nameParts(id.Name) {
			if better, ok := replacedTerms[word]; ok {
				t.Errorf("%s: the name %s has %q; the word is %s", s.path, id.Name, word, better)
			}
		}
	}
}

// declared lists the identifiers that a file declares: of the package, of types and of functions.
func declared(file *ast.File) []*ast.Ident {
	var out []*ast.Ident
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			out = append(out, n.Name)
		case *ast.TypeSpec:
			out = append(out, n.Name)
		case *ast.ValueSpec:
			out = append(out, n.Names...)
		case *ast.Field:
			out = append(out, n.Names...)
		case *ast.RangeStmt:
			out = append(out, defined(n.Tok, n.Key, n.Value)...)
		case *ast.AssignStmt:
			out = append(out, defined(n.Tok, n.Lhs...)...)
		}
		return true
	})
	return out
}

func defined(tok token.Token, names ...ast.Expr) []*ast.Ident {
	var out []*ast.Ident
	for _, e := range names {
		if id, ok := e.(*ast.Ident); ok && tok == token.DEFINE {
			out = append(out, id)
		}
	}
	return out
}

// nameParts splits a Go name or file name into its words, in lower case.
func nameParts(name string) []string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		ends := i > 0 && unicode.IsUpper(r) &&
			(unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
		if ends {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.FieldsFunc(b.String(), func(r rune) bool { return !unicode.IsLetter(r) })
}

var messageTerm = regexp.MustCompile(`[A-Za-z]+`)

// checkMessages looks at the strings of a file that are text for people: those with a blank between letters.
func checkMessages(t *testing.T, s source) {
	tags := map[*ast.BasicLit]bool{}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			if n.Tag != nil {
				tags[n.Tag] = true
			}
		case *ast.ImportSpec:
			return false
		case *ast.BasicLit:
			if n.Kind == token.STRING && !tags[n] {
				checkMessage(t, s, n.Value)
			}
		}
		return true
	})
}

func checkMessage(t *testing.T, s source, literal string) {
	text, err := strconv.Unquote(literal)
	if err != nil || !strings.ContainsFunc(text, unicode.IsSpace) || slices.Contains(formatStrings, text) {
		return
	}
	for _, word := range messageTerm.FindAllString(text, -1) {
		if better, ok := replacedTerms[strings.ToLower(word)]; ok {
			t.Errorf("%s: the message %q has %q; the word is %s", s.path, text, word, better)
		}
	}
}
