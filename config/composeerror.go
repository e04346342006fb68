package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"gopkg.in/yaml.v3"
)

// noServices is the error for compose files without services.
const noServices = "the compose file has no services"

// composeProblem returns the diagnostic for an error of compose-go, which has no position but often names one: a line,
// a path of keys, or a text of the file.
func composeProblem(files []*document, err error) *hcl.Diagnostic {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if rest, ok := strings.CutPrefix(text, "yaml: "); ok {
		text = rest
	} else if _, rest, ok := strings.Cut(text, " yaml: "); ok {
		text = rest
	}
	if strings.HasPrefix(text, noServices) {
		return problem(nil, "%s: %s", files[0].name, text)
	}
	last := files[len(files)-1].name
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
