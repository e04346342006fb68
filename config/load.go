package config

import (
	"context"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"gopkg.in/yaml.v3"
)

// loader evaluates project files once.
//
// Evaluation is lazy. newLoader only parses the files and records the definitions. An expression is evaluated when a
// requested target needs its value, and only once: values holds the attributes of targets, scope the variables and
// locals. So a reference such as target.a.tags sees the merged value with overrides applied, and an error in a target
// that no requested target needs is not reported (lazy.txtar).
//
// Laziness makes recursion the control flow, so every cycle must be found or it exhausts the stack. scope.enter keeps
// the path of names under evaluation and reports a name that is already on it, with the whole cycle. Groups, parents
// and links between targets are graphs of names, checked by expand, checkParents and checkLinks
// (errors/cycles.txtar has each kind).
type loader struct {
	opts      Options
	schema    schema
	files     map[string]*hcl.File
	docs      []*document
	names     []string // names of the files that were read
	included  []string // see Project.Included
	named     []string // see Project.Named
	localRead []string // see Project.Read
	remote    *remote  // nil if the files are local
	scope     *scope
	defs      map[string][]targetDef // the blocks of each target, by increasing precedence
	order     []string               // target names in the written order
	groups    map[string]*groupDef
	overrides []*override
	byTarget  map[attrName][]*override // by the attribute that they apply to, in the order of the command line
	values    map[attrKey]attrValue
	sorted    []string         // see sortedNames
	requested []string         // see Project.RequestedNames
	acyclic   map[string]bool  // targets whose ancestors were checked for cycles
	selfUse   map[attrKey]bool // results of usesSelf
	anySelf   bool             // "self" occurs somewhere in the files
	warnings  hcl.Diagnostics
	yamlLists map[string]map[yamlPlace]*yaml.Node // lists of YAML files, for the places of faults; read once a file
}

// attrKey identifies the value of an attribute of a target. If the value depends on self, self is the name of the
// target that inherits it; otherwise it is empty, and all heirs share the value.
type attrKey struct{ target, attribute, self string }

type attrValue struct {
	value any
	at    hcl.Range
}

// targetDef is one block of a target, with the variables of one combination of its matrix.
type targetDef struct {
	block  *block
	locals map[string]cty.Value
}

// groupDef is a group: a block, or the targets of a matrix if block is nil.
type groupDef struct {
	block     *block
	members   []string // the targets of the matrix, or the evaluated members of the block
	evaluated bool
}

// Load evaluates the project files for the requested targets and those they link to. The error is of type Diagnostics.
func Load(ctx context.Context, opts Options) (*Project, []Warning, error) {
	type result struct {
		project  *Project
		warnings []Warning
	}
	r, err := runBounded(ctx, opts, func(l *loader) (result, hcl.Diagnostics) {
		p, diags := l.project()
		return result{p, l.warned()}, diags
	})
	return r.project, r.warnings, err
}

// newLoader reads the files and records all definitions. It evaluates only includes, and
// matrices with the names of their targets.
func newLoader(ctx context.Context, opts Options, fetched *remote) (*loader, hcl.Diagnostics) {
	opts, err := opts.withEnvFiles()
	l := &loader{
		opts: opts, remote: fetched, schema: newSchema(), files: map[string]*hcl.File{}, defs: map[string][]targetDef{},
		groups: map[string]*groupDef{}, values: map[attrKey]attrValue{}, acyclic: map[string]bool{},
		selfUse: map[attrKey]bool{}, yamlLists: map[string]map[yamlPlace]*yaml.Node{},
	}
	l.scope = &scope{
		opts: opts, ctx: ctx, variables: map[string]*block{}, globals: map[string]*hcl.Attribute{},
		functions: library(),
		values:    map[string]cty.Value{}, failed: map[string]bool{}, locals: map[string]hcl.Attributes{},
		path: namePath{at: map[string]int{}}, sizes: map[string]int{},
	}
	l.scope.target = l.reference
	l.scope.functions[loopFunction] = newLoopFunction(ctx)
	if err != nil {
		return l, hcl.Diagnostics{problem(nil, "%v", err)}
	}
	diags := l.read(ctx)
	if diags.HasErrors() {
		return l, diags
	}
	for _, text := range opts.Set {
		o, more := parseOverride(text, l.schema)
		diags = append(diags, more...)
		if o != nil {
			l.overrides = append(l.overrides, o)
		}
	}
	diags = append(diags, l.checkVars()...)
	for _, d := range l.docs {
		diags = append(diags, l.define(d)...)
	}
	diags = append(diags, l.defineFunctions()...)
	if diags.HasErrors() {
		return l, diags
	}
	diags = append(diags, l.defineTargets()...)
	if !diags.HasErrors() {
		diags = append(diags, l.indexOverrides()...)
	}
	return l, diags
}

// define records the definitions of a file. A later file replaces earlier definitions of the same name.
func (l *loader) define(d *document) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for name, a := range d.root.attrs {
		l.scope.globals[name] = a
	}
	if d.services != nil {
		l.groups["default"] = &groupDef{members: d.services}
	}
	for _, b := range d.root.blocks {
		diags = append(diags, l.checkBlock(b)...)
		switch b.kind {
		case "variable":
			l.scope.variables[b.label] = b
		case "locals":
			diags = append(diags, l.scope.addLocals(d.name, b)...)
		case "group":
			l.groups[b.label] = &groupDef{block: b}
		}
	}
	return diags
}

// defineFunctions adds the functions of the files to the scope. Built-in functions take precedence.
func (l *loader) defineFunctions() hcl.Diagnostics {
	var diags hcl.Diagnostics
	own := map[string]bool{}
	for name := range l.scope.functions {
		own[name] = true
	}
	for _, d := range l.docs {
		for _, b := range d.root.blocks {
			if b.kind != "function" {
				continue
			}
			if own[b.label] {
				one := problem(&b.at, "function %q is ignored: a built-in function has this name", b.label)
				one.Severity = hcl.DiagWarning
				l.warnings = append(l.warnings, one)
				continue
			}
			f, more := l.scope.userFunction(b)
			diags = append(diags, more...)
			if !more.HasErrors() {
				l.scope.functions[b.label] = f
			}
		}
	}
	return diags
}

// allNames returns the names of all targets and groups, in no order.
func (l *loader) allNames() []string {
	all := slices.Clone(l.order)
	for name := range l.groups {
		if _, isTarget := l.defs[name]; !isTarget {
			all = append(all, name)
		}
	}
	return all
}

// sortedNames returns the names of all targets and groups. It must not be called before all are defined.
func (l *loader) sortedNames() []string {
	if l.sorted == nil {
		l.sorted = slices.Sorted(slices.Values(l.allNames()))
	}
	return l.sorted
}

// project evaluates the requested targets and those they link to. A target that is only linked to gets the output
// cacheonly: its image is needed as a context, not as a result.
func (l *loader) project() (*Project, hcl.Diagnostics) {
	p := &Project{Dir: l.opts.Dir, Targets: map[string]*Target{}, Groups: map[string]*Group{},
		Bases: map[string]Base{}, Policies: map[string]Policy{}, Registries: map[string]Registry{},
		Engines: map[string]Engine{}}
	p.Files, p.Included, p.Named, p.Read = l.names, l.included, l.named, l.localRead
	if l.opts.Definition != nil {
		p.Remote = l.opts.Definition.URL
	}
	p.Root = gitRoot(l.opts.Dir, l.opts.Env["HOME"])
	requested, diags := l.request()
	if diags.HasErrors() {
		return nil, diags
	}
	p.Requested = requested
	isRequested := map[string]bool{}
	for _, name := range requested {
		isRequested[name] = true
	}
	queue := slices.Clone(requested)
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if p.Targets[name] != nil {
			continue
		}
		t, more := l.resolve(name)
		diags = append(diags, more...)
		p.Targets[name] = t
		if more.HasErrors() {
			continue
		}
		linked, more := l.links(t)
		diags = append(diags, more...)
		queue = append(queue, linked...)
		if !isRequested[name] {
			t.Outputs = []Attrs{{"type": "cacheonly"}}
		}
	}
	p.RequestedNames = unique(l.requested)
	diags = append(diags, l.fillBlocks(p)...)
	diags = append(diags, l.checkLinks(p)...)
	if !diags.HasErrors() {
		p.shareEntitlements()
	}
	for name := range l.groups {
		members, more := l.members(name)
		if more.HasErrors() {
			continue // not requested: request has reported errors of those that are
		}
		p.Groups[name] = &Group{Name: name, Targets: members, Description: l.groupDescription(name)}
	}
	return p, diags
}
