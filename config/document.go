package config

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty/function"
	"gopkg.in/yaml.v3"
)

// document is one project file in any syntax: attributes and blocks with unevaluated expressions.
type document struct {
	constants hcl.EvalContext // of expressions without names
	name      string          // as the user would name it
	strict    bool            // unknown attributes and blocks are errors, not warnings
	kinds     kinds
	root      *block
	raw       []byte
	// compose is the content of a compose file. Its root is nil: readCompose merges all compose files into one
	// document.
	compose *yaml.Node
	// services lists the target names of the services, in the document of readCompose.
	services []string
	// dir is the base of the paths in the file, relative to Options.Dir; "" is Options.Dir itself.
	dir string
	// contextDir is the base of contexts, which BUILDX_BAKE_FILE_RELATIVE_PATHS changes.
	contextDir string
}

// block is a block, or the whole file, with its attributes and nested blocks.
type block struct {
	kind   string
	label  string
	at     hcl.Range
	attrs  hcl.Attributes
	blocks []*block
	file   *document
}

// isStrict reports whether a file is written for this tool alone, by its name. Other files may be shared with tools
// that know more attributes.
func isStrict(name string) bool { return strings.HasPrefix(filepath.Base(name), "bake.") }

// parse reads a file as JSON, YAML or HCL; see syntaxOf. If strict is true, the file is strict whatever its name,
// since a strict file includes it.
func parse(ctx context.Context, name string, raw []byte, strict bool) (*document, *hcl.File, hcl.Diagnostics) {
	d := &document{name: name, strict: strict || isStrict(name), kinds: blockKinds(), raw: raw}
	d.constants.Functions = map[string]function.Function{loopFunction: newLoopFunction(ctx)}
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
		return d, &hcl.File{Bytes: raw}, diags // drop the body, which needs much memory
	case ".yaml":
		return d, &hcl.File{Bytes: raw}, d.readYAML(raw)
	}
	return d, &hcl.File{Bytes: raw}, d.parseNative(raw)
}

// syntaxOf returns ".json", ".yaml" or ".hcl". If the name has no known extension, a mapping with services is YAML,
// and text that starts with a brace is JSON.
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

// readJSON reads a body in JSON syntax into d.root.
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
	d.root.attrs = interruptibleJSON(attrs)
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
	b.attrs = interruptibleJSON(b.attrs)
	diags = append(diags, more...)
	for _, inner := range content.Blocks {
		next := &block{kind: inner.Type, at: inner.DefRange, file: b.file}
		diags = append(diags, next.readJSONBody(inner.Body)...)
		b.blocks = append(b.blocks, next)
	}
	return diags
}
