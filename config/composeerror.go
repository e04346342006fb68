package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"gopkg.in/yaml.v3"
)

// noServices is the error for compose files without services.
const noServices = "the compose file has no services"

// composeFault returns the diagnostic for an error of compose-go: about an env file, whose text is a secret and is not
// quoted; about a file that another one includes or extends, if that is not YAML; or else about one of the files.
func (l *loader) composeFault(files []*document, included, envFiles []string, err error) *hcl.Diagnostic {
	text := err.Error()
	for _, path := range envFiles {
		if !strings.Contains(text, path) {
			continue
		}
		line := ""
		if m := regexp.MustCompile(`\bline (\d+)`).FindStringSubmatch(text); m != nil {
			line = ":" + m[1]
		}
		return problem(nil, "%s%s: not an env file; write one NAME=VALUE in a line", l.relative(path), line)
	}
	all := slices.Clone(files)
	for _, path := range included {
		name := l.relative(path)
		raw, err := readFile(l.opts, name)
		if err != nil {
			continue // compose-go has found the same
		}
		l.files[name] = &hcl.File{Bytes: raw}
		var top yaml.Node
		if err := yaml.Unmarshal(raw, &top); err != nil {
			return yamlProblem(name, err)
		}
		if len(top.Content) > 0 {
			all = append(all, &document{name: name, raw: raw, compose: top.Content[0]})
		}
	}
	return composeProblem(all, files[len(files)-1].name, err)
}

// relative returns a path relative to the directory of the project if it is below it.
func (l *loader) relative(path string) string {
	if rel, err := filepath.Rel(l.opts.Dir, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

// composeProblem returns the diagnostic for an error of compose-go, which has no position but often names one: a line,
// a path of keys, or a text of the file. A line is one of the last file that the project consists of.
func composeProblem(files []*document, last string, err error) *hcl.Diagnostic {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if rest, ok := strings.CutPrefix(text, "yaml: "); ok {
		text = rest
	} else if _, rest, ok := strings.Cut(text, " yaml: "); ok {
		text = rest
	}
	if strings.HasPrefix(text, noServices) {
		return problem(nil, "%s: %s", files[0].name, text)
	}
	if m := regexp.MustCompile(`\bline (\d+): *`).FindStringSubmatchIndex(text); m != nil {
		line := 0
		if _, err := fmt.Sscan(text[m[2]:m[3]], &line); err == nil && line > 0 {
			return yamlProblem(last, fmt.Errorf("line %d: %s", line, text[m[1]:]))
		}
	}
	if strings.HasPrefix(text, "unknown anchor") || strings.HasPrefix(text, "unmarshal errors") {
		return yamlProblem(last, errors.New(text))
	}
	at := namedPath(files, text)
	if at == nil {
		at = namedText(files, text)
	}
	if at == nil {
		pos := hcl.InitialPos
		at = &hcl.Range{Filename: files[0].name, Start: pos, End: pos}
	}
	return problem(at, "compose: %s", text)
}

// namedPath returns the position of the longest path of keys in a message that exists in a file.
func namedPath(files []*document, text string) *hcl.Range {
	var best *hcl.Range
	depth := 1 // a single key is too likely an ordinary word
	for word := range strings.FieldsSeq(text) {
		word = strings.NewReplacer("[", ".", "]", "").Replace(word) // services[app].build
		path := strings.Split(strings.Trim(word, `'":,.;()`), ".")
		for _, f := range files {
			if at, n := f.keyRange(path); n > depth {
				best, depth = at, n
			}
		}
	}
	return best
}

// namedText returns the position of the first key or value that a message quotes or that is one of its words, the
// longest one.
func namedText(files []*document, text string) *hcl.Range {
	var best *hcl.Range
	longest := 0
	quoted := regexp.MustCompile(`"([^"]+)"|'([^']+)'`)
	names := map[string]bool{}
	for _, m := range quoted.FindAllStringSubmatch(text, -1) {
		names[m[1]+m[2]] = true
	}
	for word := range strings.FieldsSeq(text) {
		word = strings.Trim(word, `'":,;()`)
		for _, name := range []string{word, word[strings.LastIndex(word, "/")+1:]} { // paths are absolute in messages
			names[name] = names[name] || len(name) > 2
		}
	}
	var visit func(f *document, n *yaml.Node)
	visit = func(f *document, n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && names[n.Value] && len(n.Value) > longest {
			at := yamlRange(f.name, n)
			best, longest = &at, len(n.Value)
		}
		for _, inner := range n.Content {
			visit(f, inner)
		}
	}
	for _, f := range files {
		visit(f, f.compose)
	}
	return best
}

// keyRange returns the position of the longest existing prefix of a path of keys, and its length.
func (d *document) keyRange(path []string) (*hcl.Range, int) {
	n := d.compose
	var found *hcl.Range
	for depth, key := range path {
		var next *yaml.Node
		if n = resolved(n); n.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == key {
					at := yamlRange(d.name, n.Content[i])
					found, next = &at, n.Content[i+1]
				}
			}
		}
		if next == nil {
			return found, depth
		}
		n = next
	}
	return found, len(path)
}
