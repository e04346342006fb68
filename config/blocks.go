package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// blockKind is one kind of block of a project file: whether it has a label, and what it may hold.
type blockKind struct {
	labelled bool
	attrs    []attribute
	anyAttr  bool // attributes of any name
	inner    string
	folded   string // blocks that are another form of the attribute of that name
	doc      string
}

// kinds is the schema of a project file, by the kind of block. "" is the file itself; "validation" stands in variables,
// "test" in targets and "config" in tests.
type kinds map[string]blockKind

func blockKinds() kinds {
	return kinds{
		"": {anyAttr: true},
		"target": {labelled: true, folded: "test", doc: "One image.", attrs: append(attributes(),
			attribute{name: "matrix", kind: kindAny, doc: "Lists of values by variable: a target for each combination. `exclude` takes some away, `include` adds to them."},
			attribute{name: "name", kind: kindString, doc: "The name of each target of a matrix."})},
		"test": {labelled: true, folded: "config", attrs: testAttributes(),
			doc: "A test of the finished image, inside of a target: of a command, a file, its config, or those of a file."},
		"config": {attrs: configAttributes(), doc: "What the config must say, inside of a test."},
		"group": {labelled: true, doc: "Targets and groups under one name.", attrs: []attribute{
			{name: "targets", kind: kindStrings, doc: "The names in the group."},
			{name: "description", kind: kindString, doc: "What the group is for."},
		}},
		"variable": {labelled: true, inner: "validation", doc: "A value that `--var`, the environment or its default gives.", attrs: []attribute{
			{name: "type", kind: kindAny, doc: "Its type, such as `list(string)`."},
			{name: "default", kind: kindAny, doc: "Its value when nothing else gives one."},
			{name: "description", kind: kindString, doc: "What it is for."},
		}},
		"validation": {doc: "A condition, inside of a variable.", attrs: []attribute{
			{name: "condition", kind: kindAny, doc: "What must be true of the variable."},
			{name: "error_message", kind: kindString, doc: "What is said when it is not."},
		}},
		"function": {labelled: true, doc: "A function of one's own.", attrs: []attribute{
			{name: "params", kind: kindAny, doc: "The names of its parameters."},
			{name: "variadic_params", kind: kindAny, doc: "The name of the list of all further arguments."},
			{name: "result", kind: kindAny, doc: "What it comes to."},
		}},
		"locals": {anyAttr: true, doc: "Values that this file alone sees, as `local.NAME`."},
		"base": {labelled: true, doc: "A base image by the name that FROM may use.", attrs: []attribute{
			{name: "image", kind: kindString, doc: "Its reference."},
			{name: "platforms", kind: kindStrings, doc: "The platforms that it must have."},
		}},
		"policy": {labelled: true, doc: "A rule that bases, targets and images must satisfy.", attrs: []attribute{
			{name: "rule", kind: kindString, doc: "A CEL expression that must be true."},
			{name: "message", kind: kindString, doc: "What is said when it is not."},
			{name: "level", kind: kindString, doc: "`deny`, the default, or `warn`."},
		}},
		"registry": {labelled: true, doc: "How a registry, or a part of one, is reached.", attrs: []attribute{
			{name: "mirrors", kind: kindStrings, doc: "Where its images are looked for first."},
			{name: "plain-http", kind: kindBool, doc: "Talk to it without TLS."},
			{name: "ca", kind: kindStrings, doc: "Files of certificates that are trusted for it."},
		}},
		"engine": {labelled: true, doc: "A BuildKit daemon that builds, alone or beside others, instead of this machine.", attrs: []attribute{
			{name: "address", kind: kindString, doc: "Where it is, such as `tcp://builder:1234`; what `--engine` takes."},
			{name: "platforms", kind: kindStrings, doc: "The platforms whose images go to it first; what it says of itself unless given."},
			{name: "weight", kind: kindString, doc: "Its share of the work beside others: a whole number, 1 unless given."},
		}},
	}
}

// top are the kinds of blocks that stand in a file itself.
func (k kinds) top() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(k)), func(kind string) bool { return !k.isTop(kind) })
}

func (k kinds) isTop(kind string) bool {
	_, ok := k[kind]
	return ok && !slices.Contains([]string{"", "validation", "test", "config"}, kind)
}

// attrNames are the attributes that a block of this kind may have.
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

// allows says whether a block may hold another, and what is to be said if not.
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

// checkBlock checks the name and the attribute names of a block.
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
		at := a.NameRange
		one := problem(&at, "unknown attribute %q in %s block%s", name, b.kind, nearest(name, known))
		if !b.file.strict {
			one.Severity = hcl.DiagWarning
			l.warnings = append(l.warnings, one)
			continue
		}
		diags = append(diags, one)
	}
	for _, inner := range b.blocks {
		diags = append(diags, l.checkBlock(inner)...)
	}
	return diags
}

func validName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !isNameRune(r) }) < 0
}
