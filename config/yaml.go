package config

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"gopkg.in/yaml.v3"
)

// Bounds of a YAML file: its depth, and the number of its values with all aliases expanded.
const (
	maxYAMLDepth  = 1000
	maxYAMLValues = 1 << 20
)

// tooLarge is the message for a file beyond these bounds.
const tooLarge = "the file is nested too deeply, or its aliases expand to too many values"

// yamlReader turns YAML nodes into blocks and expressions.
type yamlReader struct {
	doc    *document
	values int
}

// readYAML reads a project file into d.root, or a compose file into d.compose.
func (d *document) readYAML(raw []byte) hcl.Diagnostics {
	var node yaml.Node
	if err := yaml.Unmarshal(raw, &node); err != nil {
		return hcl.Diagnostics{yamlProblem(d.name, err)}
	}
	d.root = &block{attrs: hcl.Attributes{}, file: d,
		at: hcl.Range{Filename: d.name, Start: hcl.InitialPos, End: hcl.InitialPos}}
	if len(node.Content) == 0 {
		return nil
	}
	r := &yamlReader{doc: d}
	top := node.Content[0]
	isCompose, diags := r.isCompose(top)
	if diags.HasErrors() {
		return diags
	}
	if isCompose {
		d.compose, d.root = top, nil
		return r.bounded(top, 0)
	}
	return r.body(d.root, top)
}

// yamlProblem returns the diagnostic of a YAML syntax error, at the line that the error names.
func yamlProblem(name string, err error) *hcl.Diagnostic {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if n, e := fmt.Sscanf(text, "line %d:", &line); e == nil && n == 1 {
		_, text, _ = strings.Cut(text, ": ")
	}
	pos := hcl.Pos{Line: line, Column: 1}
	return problem(&hcl.Range{Filename: name, Start: pos, End: pos}, "not YAML: %s", text)
}

// isCompose reports whether a file is a compose file: it has services, or it has none of our blocks and either another
// top-level key of compose files or a name that is not strict.
func (r *yamlReader) isCompose(top *yaml.Node) (bool, hcl.Diagnostics) {
	var ours, theirs *yaml.Node
	services := false
	if top.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(top.Content); i += 2 {
			key := top.Content[i]
			services = services || key.Value == "services"
			switch {
			case r.doc.kinds.isTop(key.Value):
				ours = key
			case slices.Contains(composeKeys(), key.Value):
				theirs = key
			}
		}
	}
	if services && ours != nil {
		at := r.at(ours)
		return false, hcl.Diagnostics{problem(&at,
			"%q belongs in a project file, but a file with services is a compose file; use two files", ours.Value)}
	}
	return services || ours == nil && (theirs != nil || !r.doc.strict), nil
}

// bounded checks the depth of a file and the number of its values with all aliases expanded.
func (r *yamlReader) bounded(n *yaml.Node, depth int) hcl.Diagnostics {
	n = resolved(n)
	if r.values++; r.values > maxYAMLValues || depth > maxYAMLDepth {
		at := r.at(n)
		return hcl.Diagnostics{problem(&at, tooLarge)}
	}
	for _, inner := range n.Content {
		if diags := r.bounded(inner, depth+1); diags.HasErrors() {
			return diags
		}
	}
	return nil
}

func (r *yamlReader) at(n *yaml.Node) hcl.Range { return yamlRange(r.doc.name, n) }

func yamlRange(name string, n *yaml.Node) hcl.Range {
	start := hcl.Pos{Line: n.Line, Column: n.Column}
	end := start
	end.Column += max(1, len(n.Value))
	return hcl.Range{Filename: name, Start: start, End: end}
}

// body fills a block from a mapping. A key that names a kind of block holds blocks; all other keys are attributes.
func (r *yamlReader) body(b *block, n *yaml.Node) hcl.Diagnostics {
	n = resolved(n)
	at := r.at(n)
	if n.Kind != yaml.MappingNode {
		return hcl.Diagnostics{problem(&at, "expected a mapping, got %s", yamlKind(n))}
	}
	var diags hcl.Diagnostics
	inner := b.file.kinds[b.kind].inner
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		isBlock := b.kind == "" && r.doc.kinds.isTop(key.Value)
		switch {
		case isBlock && r.doc.kinds[key.Value].labelled:
			diags = append(diags, r.labelled(b, key.Value, value)...)
		case isBlock, inner != "" && key.Value == inner:
			diags = append(diags, r.unlabelled(b, key.Value, value)...)
		default:
			expr, more := r.expr(value, 0)
			diags = append(diags, more...)
			if _, twice := b.attrs[key.Value]; twice {
				keyAt := r.at(key)
				diags = append(diags, problem(&keyAt, "duplicate key %q", key.Value))
			}
			b.attrs[key.Value] = &hcl.Attribute{Name: key.Value, Expr: expr, NameRange: r.at(key), Range: r.at(key)}
		}
	}
	return diags
}

// labelled reads blocks with labels: "target: {NAME: {…}}".
func (r *yamlReader) labelled(b *block, kind string, n *yaml.Node) hcl.Diagnostics {
	n = resolved(n)
	at := r.at(n)
	if n.Kind != yaml.MappingNode {
		return hcl.Diagnostics{problem(&at, "%s: expected a mapping from name to %s, got %s", kind, kind, yamlKind(n))}
	}
	var diags hcl.Diagnostics
	for i := 0; i+1 < len(n.Content); i += 2 {
		next := &block{kind: kind, label: n.Content[i].Value, at: r.at(n.Content[i]), attrs: hcl.Attributes{},
			file: r.doc}
		if value := resolved(n.Content[i+1]); value.Tag != "!!null" {
			diags = append(diags, r.body(next, value)...)
		}
		b.blocks = append(b.blocks, next)
	}
	return diags
}

// unlabelled reads one block without label, or a list of them.
func (r *yamlReader) unlabelled(b *block, kind string, n *yaml.Node) hcl.Diagnostics {
	n = resolved(n)
	list := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		list = n.Content
	}
	var diags hcl.Diagnostics
	for _, one := range list {
		next := &block{kind: kind, at: r.at(one), attrs: hcl.Attributes{}, file: r.doc}
		diags = append(diags, r.body(next, one)...)
		b.blocks = append(b.blocks, next)
	}
	return diags
}

// resolved follows aliases.
func resolved(n *yaml.Node) *yaml.Node {
	for range maxYAMLDepth {
		if n.Kind != yaml.AliasNode {
			break
		}
		n = n.Alias
	}
	return n
}

// yamlKind describes a node in messages.
func yamlKind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a mapping"
	}
	return fmt.Sprintf("%q", n.Value)
}

// expr turns a node into an expression. Strings are templates.
func (r *yamlReader) expr(n *yaml.Node, depth int) (hcl.Expression, hcl.Diagnostics) {
	n = resolved(n)
	at := r.at(n)
	if r.values++; r.values > maxYAMLValues || depth > maxYAMLDepth {
		return hcl.StaticExpr(cty.DynamicVal, at), hcl.Diagnostics{problem(&at, tooLarge)}
	}
	switch n.Kind {
	case yaml.SequenceNode:
		e := &yamlExpr{at: at}
		var diags hcl.Diagnostics
		for _, one := range n.Content {
			item, more := r.expr(one, depth+1)
			diags = append(diags, more...)
			e.items = append(e.items, item)
		}
		return e, diags
	case yaml.MappingNode:
		e := &yamlExpr{at: at, isMap: true}
		var diags hcl.Diagnostics
		for i := 0; i+1 < len(n.Content); i += 2 {
			item, more := r.expr(n.Content[i+1], depth+1)
			diags = append(diags, more...)
			e.keys, e.keyAt = append(e.keys, n.Content[i].Value), append(e.keyAt, r.at(n.Content[i]))
			e.items = append(e.items, item)
		}
		return e, diags
	}
	return r.scalar(n, at)
}

func (r *yamlReader) scalar(n *yaml.Node, at hcl.Range) (hcl.Expression, hcl.Diagnostics) {
	switch n.Tag {
	case "!!null":
		return hcl.StaticExpr(cty.NullVal(cty.DynamicPseudoType), at), nil
	case "!!bool":
		var v bool
		if err := n.Decode(&v); err == nil {
			return hcl.StaticExpr(cty.BoolVal(v), at), nil
		}
	case "!!int", "!!float":
		if v, err := number(n.Value); err == nil {
			return hcl.StaticExpr(v, at), nil
		}
	}
	if !strings.Contains(n.Value, "${") && !strings.Contains(n.Value, "%{") {
		return hcl.StaticExpr(cty.StringVal(n.Value), at), nil
	}
	start := at.Start
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		start.Column++
	}
	if diags := checkTemplate(n.Value, at); diags.HasErrors() {
		return hcl.StaticExpr(cty.DynamicVal, at), diags
	}
	return parseTemplate(n.Value, r.doc.name, start)
}

func number(s string) (cty.Value, error) {
	f, _, err := big.ParseFloat(strings.ReplaceAll(s, "_", ""), 0, 512, big.ToNearestEven)
	if err != nil {
		return cty.NilVal, err
	}
	if f.IsInf() {
		return cty.NilVal, errors.New("infinity is not a valid number")
	}
	return cty.NumberVal(f), nil
}

// yamlExpr is a list or mapping as an hcl.Expression. Each element keeps its own position.
type yamlExpr struct {
	at    hcl.Range
	isMap bool
	keys  []string
	keyAt []hcl.Range
	items []hcl.Expression
}

// Value implements hcl.Expression.
func (e *yamlExpr) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	values := make([]cty.Value, len(e.items))
	for i, item := range e.items {
		var more hcl.Diagnostics
		values[i], more = item.Value(ctx)
		diags = append(diags, more...)
	}
	if !e.isMap {
		return cty.TupleVal(values), diags
	}
	object := map[string]cty.Value{}
	for i, key := range e.keys {
		object[key] = values[i]
	}
	return cty.ObjectVal(object), diags
}

// Variables implements hcl.Expression.
func (e *yamlExpr) Variables() []hcl.Traversal {
	var all []hcl.Traversal
	for _, item := range e.items {
		all = append(all, item.Variables()...)
	}
	return all
}

// Range implements hcl.Expression.
func (e *yamlExpr) Range() hcl.Range { return e.at }

// StartRange implements hcl.Expression.
func (e *yamlExpr) StartRange() hcl.Range { return e.at }

// ExprList returns the elements of a list, for hcl.ExprList.
func (e *yamlExpr) ExprList() []hcl.Expression {
	if e.isMap {
		return nil
	}
	return e.items
}

// ExprMap returns the entries of a mapping, for hcl.ExprMap.
func (e *yamlExpr) ExprMap() []hcl.KeyValuePair {
	if !e.isMap {
		return nil
	}
	all := make([]hcl.KeyValuePair, len(e.items))
	for i, item := range e.items {
		all[i] = hcl.KeyValuePair{Key: hcl.StaticExpr(cty.StringVal(e.keys[i]), e.keyAt[i]), Value: item}
	}
	return all
}

// asString converts a value to a string by HCL's rules. Null and unknown values are errors.
func asString(v cty.Value) (string, error) {
	s, err := convert.Convert(v, cty.String)
	if err != nil {
		return "", err
	}
	if s.IsNull() || !s.IsKnown() {
		return "", errors.New("a value is required")
	}
	return s.AsString(), nil
}
