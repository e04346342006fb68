package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// blockKind describes one kind of block in a project file.
type blockKind struct {
	labelled bool
	attrs    []attribute
	anyAttr  bool   // attributes may have any name
	inner    string // the kind of nested blocks
	folded   string // the kind of nested blocks that become an attribute of that name; see foldBlocks
	doc      string
}

// kinds is the schema of a project file, by kind of block. "" is the file itself. "validation" is nested in variables,
// "test" in targets and "config" in tests.
type kinds map[string]blockKind

func blockKinds() kinds {
	return kinds{
		"": {anyAttr: true},
		"target": {labelled: true, folded: "test", doc: "One image.", attrs: append(attributes(),
			attribute{name: "matrix", kind: kindAny,
				doc: "Lists of values by variable, which define a target for each combination. " +
					"`exclude` removes combinations, `include` extends or adds them."},
			attribute{name: "name", kind: kindString, doc: "The name of each target of a matrix, an expression."})},
		"test": {labelled: true, folded: "config", attrs: testAttributes(),
			doc: "A test of the built image, in a target: of a command, a file or the config, or a file of tests."},
		"config": {attrs: configAttributes(), doc: "The expected config of the image, in a test."},
		"group": {labelled: true, doc: "A named list of targets and groups.", attrs: []attribute{
			{name: "targets", kind: kindStrings, doc: "The names of its targets and groups."},
			{name: "description", kind: kindString, doc: "The purpose of the group."},
		}},
		"variable": {labelled: true, inner: "validation",
			doc: "A value from `--var`, the environment or its default.", attrs: []attribute{
				{name: "type", kind: kindAny, doc: "Its type, such as `list(string)`."},
				{name: "default", kind: kindAny, doc: "The value if it is set nowhere else."},
				{name: "description", kind: kindString, doc: "The purpose of the variable."},
			}},
		"validation": {doc: "A condition on the value, in a variable.", attrs: []attribute{
			{name: "condition", kind: kindAny, doc: "An expression that must be true."},
			{name: "error_message", kind: kindString, doc: "The message if it is false."},
		}},
		"function": {labelled: true, doc: "A user-defined function.", attrs: []attribute{
			{name: "params", kind: kindAny, doc: "The names of the parameters."},
			{name: "variadic_params", kind: kindAny, doc: "The name of the list of additional arguments."},
			{name: "result", kind: kindAny, doc: "The value, an expression."},
		}},
		"locals": {anyAttr: true, doc: "Values that are visible only in this file, as `local.NAME`."},
		"base": {labelled: true, doc: "A name for a base image, for use in FROM.", attrs: []attribute{
			{name: "image", kind: kindString, doc: "The image reference."},
			{name: "platforms", kind: kindStrings, doc: "Platforms that the image must have."},
		}},
		"policy": {labelled: true, doc: "A rule that bases, targets and images must satisfy.", attrs: []attribute{
			{name: "rule", kind: kindString, doc: "A CEL expression that must be true."},
			{name: "message", kind: kindString, doc: "The message if it is false."},
			{name: "level", kind: kindString, doc: "`deny` (default) or `warn`."},
		}},
		"registry": {labelled: true, doc: "How to access a registry, or the part of it below a path.",
			attrs: []attribute{
				{name: "mirrors", kind: kindStrings, doc: "Mirrors to try first."},
				{name: "plain-http", kind: kindBool, doc: "Connect without TLS."},
				{name: "ca", kind: kindStrings, doc: "Files of CA certificates to trust."},
			}},
		"engine": {labelled: true, doc: "A BuildKit daemon to build with instead of the local machine.",
			attrs: []attribute{
				{name: "address", kind: kindString,
					doc: "The address, such as `tcp://builder:1234`, as for `--engine`."},
				{name: "platforms", kind: kindStrings,
					doc: "The platforms to prefer it for; those that it reports by default."},
				{name: "weight", kind: kindString,
					doc: "Its share of the work relative to other engines, an integer; 1 by default."},
			}},
	}
}

// top returns the sorted kinds of top-level blocks.
func (k kinds) top() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(k)), func(kind string) bool { return !k.isTop(kind) })
}

func (k kinds) isTop(kind string) bool {
	_, ok := k[kind]
	return ok && !slices.Contains([]string{"", "validation", "test", "config"}, kind)
}

// attrNames returns the names of the attributes that a block of this kind may have.
func (k blockKind) attrNames() []string {
	all := make([]string, 0, len(k.attrs))
	for _, a := range k.attrs {
		all = append(all, a.name)
	}
	return all
}

func (k blockKind) attribute(name string) attribute {
	i := slices.IndexFunc(k.attrs, func(a attribute) bool { return a.name == name })
	return k.attrs[i]
}

// allows reports whether a block may contain a block of another kind, and returns the diagnostic if not.
func (b *block) allows(kind string, at hcl.Range) (bool, hcl.Diagnostics) {
	k := b.file.kinds[b.kind]
	allowed := slices.DeleteFunc([]string{k.inner, k.folded}, func(kind string) bool { return kind == "" })
	if b.kind == "" {
		allowed = b.file.kinds.top()
	}
	if slices.Contains(allowed, kind) {
		return true, nil
	}
	where := ""
	if b.kind != "" {
		where = " in " + b.kind + " block"
	}
	d := problem(&at, "unknown block %q%s%s", kind, where, nearest(kind, allowed))
	if !b.file.strict {
		d.Severity = hcl.DiagWarning
	}
	return false, hcl.Diagnostics{d}
}

// checkBlock checks the name of a block and the names of its attributes.
func (l *loader) checkBlock(b *block) hcl.Diagnostics {
	var diags hcl.Diagnostics
	if (b.kind == "target" || b.kind == "group") && !validName(b.label) {
		diags = append(diags, problem(&b.at, "invalid %s name %q; use letters, digits, _ and -", b.kind, b.label))
	}
	k := b.file.kinds[b.kind]
	known := k.attrNames()
	for name, a := range b.attrs {
		if k.anyAttr || slices.Contains(known, name) || strings.HasPrefix(name, "x-") {
			continue
		}
		if b.kind == "group" && (name == "matrix" || name == "name") {
			continue // checkShape reports it
		}
		at := a.NameRange
		one := problem(&at, "unknown attribute %q in %s block%s", name, b.kind, nearest(name, known))
		if !b.file.strict && b.kind != "function" {
			one.Severity = hcl.DiagWarning
			l.warnings = append(l.warnings, one)
			continue
		}
		diags = append(diags, one)
	}
	for _, inner := range b.blocks {
		diags = append(diags, l.checkBlock(inner)...)
	}
	if diags.HasErrors() {
		return diags // a misspelt attribute must not be reported as missing too
	}
	return b.checkShape()
}

// checkShape checks what Docker Bake refuses when it reads a file, whether anything uses the block or not.
func (b *block) checkShape() hcl.Diagnostics {
	at := func(name string) *hcl.Range { return &b.attrs[name].NameRange }
	has := func(name string) bool { return b.attrs[name] != nil }
	switch {
	case b.kind == "group" && has("matrix"):
		return hcl.Diagnostics{problem(at("matrix"), "group %q cannot have a matrix; give the matrix to a target, "+
			"whose label is then the group of its combinations", b.label)}
	case b.kind == "group" && has("name"):
		return hcl.Diagnostics{problem(at("name"), "group %q cannot have a name: its label is its name", b.label)}
	case b.kind == "validation" && !has("condition"):
		return hcl.Diagnostics{problem(&b.at, "a validation needs a condition")}
	case b.kind == "function" && !has("params"):
		return hcl.Diagnostics{problem(&b.at, "function %q needs params; write params = [] if it has none", b.label)}
	}
	return nil
}

func validName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !isNameRune(r) }) < 0
}
