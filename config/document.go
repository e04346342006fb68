package config

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	hcljson "github.com/hashicorp/hcl/v2/json"
)

// document is one project file, whatever its syntax: attributes and blocks whose expressions are not evaluated yet.
type document struct {
	name   string // as the user would name it
	strict bool   // unknown things are errors; else warnings, as old files rely on that
	root   *block
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

// kinds are the blocks of a project file, each with one label, and the blocks in them.
func kinds() map[string][]string {
	return map[string][]string{"target": nil, "group": nil, "variable": {"validation"}, "function": nil}
}

// isStrict says that a file is one of ours, in which nothing unknown is meant for another tool.
func isStrict(name string) bool { return strings.HasPrefix(filepath.Base(name), "bake.") }

// parse reads a file by its name: JSON, YAML or HCL.
func parse(name string, raw []byte) (*document, *hcl.File, hcl.Diagnostics) {
	d := &document{name: name, strict: isStrict(name)}
	if diags := checkText(name, raw); diags.HasErrors() {
		return d, &hcl.File{Bytes: raw}, diags
	}
	switch ext := filepath.Ext(name); ext {
	case ".json":
		file, diags := hcljson.Parse(raw, name)
		if diags.HasErrors() {
			return d, fileOf(file, raw), diags
		}
		diags = d.readJSON(file.Body)
		return d, file, diags
	case ".yaml", ".yml":
		return d, &hcl.File{Bytes: raw}, d.readYAML(raw)
	}
	file, diags := hclsyntax.ParseConfig(raw, name, hcl.InitialPos)
	if diags.HasErrors() {
		return d, fileOf(file, raw), diags
	}
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return d, file, hcl.Diagnostics{problem(nil, "%s: not HCL", name)}
	}
	d.root, diags = d.readNative("", body, hcl.Range{Filename: name})
	return d, file, diags
}

func fileOf(f *hcl.File, raw []byte) *hcl.File {
	if f == nil {
		return &hcl.File{Bytes: raw}
	}
	return f
}

// readNative takes over a body in HCL's own syntax.
func (d *document) readNative(kind string, body *hclsyntax.Body, at hcl.Range) (*block, hcl.Diagnostics) {
	b := &block{kind: kind, at: at, attrs: hcl.Attributes{}, file: d}
	for name, a := range body.Attributes {
		b.attrs[name] = a.AsHCLAttribute()
	}
	var diags hcl.Diagnostics
	for _, inner := range body.Blocks {
		known, err := b.admits(inner.Type, inner.TypeRange)
		diags = append(diags, err...)
		if !known {
			continue
		}
		next, more := d.readNative(inner.Type, inner.Body, inner.DefRange())
		diags = append(diags, more...)
		wantLabel := kind == ""
		switch {
		case wantLabel && len(inner.Labels) != 1:
			at := inner.DefRange()
			diags = append(diags, problem(&at, "a %s block needs one label: %s \"NAME\" { … }", inner.Type, inner.Type))
			continue
		case wantLabel:
			next.label, next.at = inner.Labels[0], hcl.RangeBetween(inner.TypeRange, inner.LabelRanges[0])
		}
		b.blocks = append(b.blocks, next)
	}
	return b, diags
}

// admits says whether a block may hold another, and what is to be said if not.
func (b *block) admits(kind string, at hcl.Range) (bool, hcl.Diagnostics) {
	allowed := kinds()[b.kind]
	if b.kind == "" {
		allowed = slices.Collect(maps.Keys(kinds()))
	}
	if slices.Contains(allowed, kind) {
		return true, nil
	}
	where := "here"
	if b.kind != "" {
		where = "in a " + b.kind
	}
	severity := problem(&at, "there is no block %q %s%s", kind, where, nearest(kind, allowed))
	if !b.file.strict {
		severity.Severity = hcl.DiagWarning
	}
	return false, hcl.Diagnostics{severity}
}

// readJSON takes over a body in JSON syntax.
func (d *document) readJSON(body hcl.Body) hcl.Diagnostics {
	s := &hcl.BodySchema{}
	for kind := range kinds() {
		s.Blocks = append(s.Blocks, hcl.BlockHeaderSchema{Type: kind, LabelNames: []string{"name"}})
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
		b := &block{kind: inner.Type, label: inner.Labels[0], at: inner.DefRange, file: d}
		if len(inner.LabelRanges) > 0 {
			b.at = inner.LabelRanges[0]
		}
		diags = append(diags, b.readJSONBody(inner.Body)...)
		d.root.blocks = append(d.root.blocks, b)
	}
	return diags
}

func (b *block) readJSONBody(body hcl.Body) hcl.Diagnostics {
	s := &hcl.BodySchema{}
	for _, kind := range kinds()[b.kind] {
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
