package config

import (
	"maps"
	"strings"

	"github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/hashicorp/hcl/v2"
	"gopkg.in/yaml.v3"
)

// quietly returns options of compose-go with which it does not write to its log. Unset variables become empty strings
// as usual; unsetVariables reports them with their position.
func quietly(o *interpolation.Options) *interpolation.Options {
	quiet := *o
	quiet.Substitute = func(text string, lookup template.Mapping) (string, error) {
		text = eachVariable(text, func(name, written string) string {
			if _, ok := lookup(name); ok {
				return written
			}
			return ""
		})
		return template.Substitute(text, lookup)
	}
	quiet.TypeCastMapping = maps.Clone(o.TypeCastMapping)
	for path, cast := range o.TypeCastMapping {
		quiet.TypeCastMapping[path] = func(value string) (any, error) {
			if word, ok := oldBool(value); ok {
				if v, err := cast(word); err == nil {
					return v, nil
				}
			}
			return cast(value)
		}
	}
	return &quiet
}

// oldBool returns true or false for the words that only YAML 1.1 has for them, which compose files still use.
func oldBool(s string) (string, bool) {
	switch strings.ToLower(s) {
	case "y", "yes", "on":
		return "true", true
	case "n", "no", "off":
		return "false", true
	}
	return "", false
}

// unsetVariables returns a warning for each variable without a default that is not set and that a service with a build
// section uses there or in its image, in the order of the files.
func unsetVariables(files []*document, env map[string]string) hcl.Diagnostics {
	var diags hcl.Diagnostics
	seen := map[string]bool{}
	var visit func(f *document, n *yaml.Node, depth int)
	visit = func(f *document, n *yaml.Node, depth int) {
		if n = resolved(n); depth > maxYAMLDepth {
			return
		}
		if n.Kind == yaml.ScalarNode {
			eachVariable(n.Value, func(name, written string) string {
				if _, ok := env[name]; !ok && !seen[name] {
					seen[name] = true
					at := yamlRange(f.name, n)
					d := problem(&at, "variable %s is not set and becomes an empty string; set it, or write a "+
						"default: ${%s:-VALUE}", name, name)
					d.Severity = hcl.DiagWarning
					diags = append(diags, d)
				}
				return written
			})
		}
		for _, inner := range n.Content {
			visit(f, inner, depth+1)
		}
	}
	for _, f := range files {
		for _, service := range entries(entry(f.compose, "services")) {
			build := entry(service, "build")
			if build == nil {
				continue
			}
			visit(f, build, 0)
			if image := entry(service, "image"); image != nil {
				visit(f, image, 0)
			}
		}
	}
	return diags
}

// entry returns the value of a key of a mapping, or nil.
func entry(n *yaml.Node, key string) *yaml.Node {
	if n == nil {
		return nil
	}
	if n = resolved(n); n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// entries returns the values of a mapping.
func entries(n *yaml.Node) []*yaml.Node {
	if n == nil {
		return nil
	}
	var all []*yaml.Node
	if n = resolved(n); n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			all = append(all, n.Content[i+1])
		}
	}
	return all
}

// eachVariable replaces $NAME and ${NAME}, but not $$NAME and ${NAME:-…}, by the results of replace.
func eachVariable(text string, replace func(name, written string) string) string {
	var b strings.Builder
	for len(text) > 0 {
		i := strings.IndexByte(text, '$')
		if i < 0 || i+1 == len(text) {
			break
		}
		b.WriteString(text[:i])
		text = text[i:]
		rest := text[1:]
		braced := rest[0] == '{'
		if braced {
			rest = rest[1:]
		}
		name := rest[:variableLength(rest)]
		n := 1 + len(name) // of the reference
		if braced {
			n += 2
		}
		switch {
		case text[1] == '$':
			b.WriteString("$$")
			text = text[2:]
			continue
		case name == "" || braced && !strings.HasPrefix(rest[len(name):], "}"):
			b.WriteByte('$')
			text = text[1:]
			continue
		}
		b.WriteString(replace(name, text[:n]))
		text = text[n:]
	}
	return b.String() + text
}

// variableLength returns the length of the variable name at the start of a text.
func variableLength(s string) int {
	for i, c := range []byte(s) {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}
