package config

import (
	"reflect"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"
	"gopkg.in/yaml.v3"
)

// blame returns the diagnostic of a fault at the place where its value is written: a --set, or an element in the blocks
// of the target or of those it inherits from. Values do not keep the positions of their elements, since few files have
// a fault and a position needs more memory than a value. So this function looks for them again.
func (l *loader) blame(target string, f fault) *hcl.Diagnostic {
	if o := l.blamedOverride(target, f); o != nil {
		return problem(nil, "--set %s: %s", o.text, f.text)
	}
	at, ok := l.writtenAt(target, f, map[string]bool{})
	if !ok {
		at = l.attrRange(target, f.attribute)
	}
	return problem(&at, "target %q: %s", target, f.text)
}

// blamedOverride returns the last --set that gives a target the faulty value, or nil.
func (l *loader) blamedOverride(target string, f fault) *override {
	var found *override
	for _, o := range l.byTarget[attrName{target, f.attribute}] {
		switch items, err := o.attribute.overrideItems(o); {
		case f.item == nil && f.key == o.sub && o.toggle == "":
			found = o
		case f.item != nil && err == nil && holds(items, f.item):
			found = o
		}
	}
	return found
}

// holds reports whether a list has an element.
func holds(list, item any) bool {
	switch list := list.(type) {
	case []string:
		s, ok := item.(string)
		return ok && slices.Contains(list, s)
	case []Attrs:
		return slices.ContainsFunc(list, func(m Attrs) bool { return reflect.DeepEqual(m, item) })
	}
	return false
}

// writtenAt returns the position of the faulty value in the blocks of a target, the last one first, or in those of its
// parents.
func (l *loader) writtenAt(target string, f fault, seen map[string]bool) (hcl.Range, bool) {
	if seen[target] {
		return hcl.Range{}, false
	}
	seen[target] = true
	a := l.schema[f.attribute]
	for _, d := range slices.Backward(l.defs[target]) {
		written := d.block.attrs[f.attribute]
		if written == nil {
			continue
		}
		if f.item == nil && f.key == "" {
			return written.Expr.Range(), true
		}
		locals := l.withSelf(d.locals, target)
		for _, e := range l.elementsOf(written.Expr) {
			if f.key != "" && e.key == f.key {
				return e.expr.Range(), true
			}
			v, diags := l.scope.eval(e.expr, locals)
			if diags.HasErrors() || f.key != "" {
				continue
			}
			if list, err := a.convert(cty.TupleVal([]cty.Value{v})); err == nil && holds(list, f.item) {
				return e.expr.Range(), true
			}
		}
	}
	parents, _ := l.parents(target)
	for _, p := range slices.Backward(parents) {
		if at, ok := l.writtenAt(p, f, seen); ok {
			return at, true
		}
	}
	return hcl.Range{}, false
}

// element is an element of a list, or an entry of an object with its key.
type element struct {
	key  string
	expr hcl.Expression
}

// elementsOf returns the elements of an expression that is a list or an object in the file, and nil for others.
func (l *loader) elementsOf(e hcl.Expression) []element {
	if found := elementsIn(e); found != nil {
		return found
	}
	return elementsIn(l.parseAgain(e.Range()))
}

func elementsIn(e hcl.Expression) []element {
	if e == nil {
		return nil
	}
	var all []element
	if list, diags := hcl.ExprList(e); !diags.HasErrors() {
		for _, one := range list {
			all = append(all, element{expr: one})
		}
		return all
	}
	pairs, diags := hcl.ExprMap(e)
	if diags.HasErrors() {
		return nil
	}
	for _, pair := range pairs {
		key := hcl.ExprAsKeyword(pair.Key)
		if v, diags := pair.Key.Value(nil); key == "" && !diags.HasErrors() {
			key, _ = asString(v)
		}
		all = append(all, element{key, pair.Value})
	}
	return all
}

// parseAgain parses the text of an expression again, because block.compact keeps only the values of constants. It
// returns nil if that is not possible.
func (l *loader) parseAgain(at hcl.Range) hcl.Expression {
	file := l.files[at.Filename]
	if file == nil {
		return nil
	}
	var e hcl.Expression
	var diags hcl.Diagnostics
	switch text := file.Bytes; syntaxOf(at.Filename, text) {
	case ".yaml":
		return l.yamlAt(at, text)
	case ".json":
		if at.End.Byte > len(text) {
			return nil
		}
		e, diags = hcljson.ParseExpressionWithStartPos(text[at.Start.Byte:at.End.Byte], at.Filename, at.Start)
	default:
		if at.End.Byte > len(text) {
			return nil
		}
		e, diags = hclsyntax.ParseExpression(text[at.Start.Byte:at.End.Byte], at.Filename, at.Start)
	}
	if diags.HasErrors() {
		return nil
	}
	return e
}

// yamlAt returns the list at a position of a YAML file as an expression, or nil.
func (l *loader) yamlAt(at hcl.Range, text []byte) hcl.Expression {
	lists, known := l.yamlLists[at.Filename]
	if !known {
		lists = yamlLists(text)
		l.yamlLists[at.Filename] = lists
	}
	found := lists[yamlPlace{at.Start.Line, at.Start.Column}]
	if found == nil {
		return nil
	}
	r := &yamlReader{doc: &document{name: at.Filename, kinds: blockKinds(), raw: text}}
	e, diags := r.expr(found, 0)
	if diags.HasErrors() {
		return nil
	}
	return e
}

// yamlPlace is a line and a column, both from 1.
type yamlPlace struct{ line, column int }

// yamlLists returns the lists of a YAML file by where they begin, the outer one of two that begin at one place.
func yamlLists(text []byte) map[yamlPlace]*yaml.Node {
	var top yaml.Node
	if err := yaml.Unmarshal(text, &top); err != nil {
		return nil
	}
	lists := map[yamlPlace]*yaml.Node{}
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		place := yamlPlace{n.Line, n.Column}
		if n.Kind == yaml.SequenceNode && lists[place] == nil {
			lists[place] = n
		}
		for _, inner := range n.Content {
			visit(inner)
		}
	}
	visit(&top)
	return lists
}

// itemRange returns the position of an element or entry of an expression, or of the whole expression.
func (l *loader) itemRange(e hcl.Expression, item itemError) hcl.Range {
	for i, one := range l.elementsOf(e) {
		if one.key == item.key && (item.key != "" || i == item.index) {
			return one.expr.Range()
		}
	}
	return e.Range()
}
