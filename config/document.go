package config

import (
	"bytes"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"gopkg.in/yaml.v3"
)

// document is one project file, whatever its syntax: attributes and blocks whose expressions are not evaluated yet.
type document struct {
	name   string // as the user would name it
	strict bool   // unknown things are errors; else warnings, as old files rely on that
	kinds  kinds
	root   *block
	raw    []byte
	// compose is the content of a compose file, which has no root of its own.
	compose *yaml.Node
	// services are the targets of all compose files.
	services []string
	// dir is the directory that the file's paths are relative to, seen from the project's; "" is that itself.
	dir string
	// contextDir is the same for contexts alone.
	contextDir string
}

// block is a body with its attributes and the blocks in it.
type block struct {
	kind   string
	label  string
	at     hcl.Range
	attrs  hcl.Attributes
	blocks []*block
	file   *document
}

// isStrict says that a file is one of ours, in which nothing unknown is meant for another tool.
func isStrict(name string) bool { return strings.HasPrefix(filepath.Base(name), "bake.") }

// parse reads a file: JSON, YAML or HCL by its name, or by what it holds where the name says nothing. One that a strict file
// includes is strict.
func parse(name string, raw []byte, strict bool) (*document, *hcl.File, hcl.Diagnostics) {
	d := &document{name: name, strict: strict || isStrict(name), kinds: blockKinds(), raw: raw}
	syntax := syntaxOf(name, raw)
	if most := map[string]int{".json": maxJSON, ".yaml": maxYAML}[syntax]; most > 0 {
		if diags := checkText(name, raw, hcl.InitialPos, most); diags.HasErrors() {
			return d, &hcl.File{Bytes: raw}, diags
		}
	}
	switch syntax {
	case ".json":
		if diags := checkJSON(name, raw); diags.HasErrors() {
			return d, &hcl.File{Bytes: raw}, diags
		}
		file, diags := hcljson.Parse(raw, name)
		if diags.HasErrors() {
			return d, fileOf(file, raw), diags
		}
		diags = d.readJSON(file.Body)
		return d, &hcl.File{Bytes: raw}, diags // without the body, which is large
	case ".yaml":
		return d, &hcl.File{Bytes: raw}, d.readYAML(raw)
	}
	return d, &hcl.File{Bytes: raw}, d.parseNative(raw)
}

// syntaxOf is ".json", ".yaml" or ".hcl". Text without one of these endings is YAML when it is a mapping with services, JSON
// when it starts with a brace.
func syntaxOf(name string, raw []byte) string {
	switch ext := strings.ToLower(filepath.Ext(name)); ext {
	case ".yml", ".yaml":
		return ".yaml"
	case ".json", ".hcl":
		return ext
	}
	var top struct {
		Services yaml.Node `yaml:"services"`
	}
	if err := yaml.Unmarshal(raw, &top); err == nil && top.Services.Kind == yaml.MappingNode {
		return ".yaml"
	}
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		return ".json"
	}
	return ".hcl"
}

func fileOf(f *hcl.File, raw []byte) *hcl.File {
	if f == nil {
		return &hcl.File{Bytes: raw}
	}
	return f
}

// readJSON takes over a body in JSON syntax.
func (d *document) readJSON(body hcl.Body) hcl.Diagnostics {
	s := &hcl.BodySchema{}
	for _, kind := range d.kinds.top() {
		header := hcl.BlockHeaderSchema{Type: kind}
		if d.kinds[kind].labelled {
			header.LabelNames = []string{"name"}
		}
		s.Blocks = append(s.Blocks, header)
	}
	content, rest, diags := body.PartialContent(s)
	d.root = &block{attrs: hcl.Attributes{}, file: d}
	if diags.HasErrors() {
		return diags
	}
	attrs, more := rest.JustAttributes()
	diags = append(diags, more...)
	d.root.attrs = attrs
	for _, inner := range content.Blocks {
		b := &block{kind: inner.Type, at: inner.DefRange, file: d}
		if len(inner.LabelRanges) > 0 {
			b.label, b.at = inner.Labels[0], inner.LabelRanges[0]
		}
		diags = append(diags, b.readJSONBody(inner.Body)...)
		b.compact()
		d.root.blocks = append(d.root.blocks, b)
	}
	return diags
}

func (b *block) readJSONBody(body hcl.Body) hcl.Diagnostics {
	s := &hcl.BodySchema{}
	if kind := b.file.kinds[b.kind].inner; kind != "" {
		s.Blocks = append(s.Blocks, hcl.BlockHeaderSchema{Type: kind})
	}
	content, rest, diags := body.PartialContent(s)
	if diags.HasErrors() {
		return diags
	}
	var more hcl.Diagnostics
	b.attrs, more = rest.JustAttributes()
	diags = append(diags, more...)
	for _, inner := range content.Blocks {
		next := &block{kind: inner.Type, at: inner.DefRange, file: b.file}
		diags = append(diags, next.readJSONBody(inner.Body)...)
		b.blocks = append(b.blocks, next)
	}
	return diags
}
