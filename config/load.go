package config

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// loader is one evaluation.
type loader struct {
	opts      Options
	schema    schema
	files     map[string]*hcl.File
	docs      []*document
	names     []string // of all files that were read
	included  []string // see Project.Included
	remote    *remote  // nil when the files are on this machine
	scope     *scope
	defs      map[string][]targetDef // blocks of each target, in order
	order     []string               // target names as they are written
	groups    map[string]*groupDef
	overrides []*override
	values    map[attrKey]attrValue
	requested []string         // see Project.RequestedNames
	acyclic   map[string]bool  // targets whose ancestors were checked for cycles
	selfUse   map[attrKey]bool // results of usesSelf
	anySelf   bool             // "self" occurs somewhere in the files
	warnings  hcl.Diagnostics
}

// attrKey is an attribute of a target, as it is for a target that inherits it when self is not empty.
type attrKey struct{ target, attribute, self string }

type attrValue struct {
	value any
	at    hcl.Range
}

// targetDef is one block of a target, with the values of its matrix.
type targetDef struct {
	block  *block
	locals map[string]cty.Value
}

// groupDef is a group: of a block, or the targets that a matrix made.
type groupDef struct {
	block   *block
	members []string // of a matrix
}

// Load evaluates the project files for the requested targets, and what these link to. The error is of type Diagnostics.
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

// newLoader reads the files and notes all definitions, without evaluating any that need not be.
func newLoader(ctx context.Context, opts Options, far *remote) (*loader, hcl.Diagnostics) {
	opts, err := opts.withEnvFiles()
	l := &loader{
		opts: opts, remote: far, schema: newSchema(), files: map[string]*hcl.File{}, defs: map[string][]targetDef{},
		groups: map[string]*groupDef{}, values: map[attrKey]attrValue{}, acyclic: map[string]bool{}, selfUse: map[attrKey]bool{},
	}
	l.scope = &scope{
		opts: opts, variables: map[string]*block{}, globals: map[string]*hcl.Attribute{}, functions: library(),
		values: map[string]cty.Value{}, failed: map[string]bool{}, locals: map[string]hcl.Attributes{},
	}
	l.scope.target = l.reference
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
	return l, diags
}

// checkVars checks that --var names what a file defines, once the files are known.
func (l *loader) checkVars() hcl.Diagnostics {
	var known []string
	for _, d := range l.docs {
		for _, b := range d.root.blocks {
			if b.kind == "variable" {
				known = append(known, b.label)
			}
		}
	}
	var diags hcl.Diagnostics
	for _, v := range l.opts.Vars {
		name, _, ok := strings.Cut(v, "=")
		switch {
		case !ok:
			diags = append(diags, problem(nil, "--var %s: expected NAME=VALUE", v))
		case !slices.Contains(known, name):
			diags = append(diags, problem(nil, "--var %s: unknown variable %q%s", v, name, nearest(name, known)))
		}
	}
	return diags
}

// define notes what a file defines.
func (l *loader) define(d *document) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for name, a := range d.root.attrs {
		l.scope.globals[name] = a
	}
	if len(d.services) > 0 {
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

// allNames are all names of targets and groups.
func (l *loader) allNames() []string {
	all := slices.Clone(l.order)
	for name := range l.groups {
		if _, isTarget := l.defs[name]; !isTarget {
			all = append(all, name)
		}
	}
	return all
}

// project resolves the requested targets and all that they link to.
func (l *loader) project() (*Project, hcl.Diagnostics) {
	p := &Project{Dir: l.opts.Dir, Targets: map[string]*Target{}, Groups: map[string]*Group{},
		Bases: map[string]Base{}, Policies: map[string]Policy{}, Registries: map[string]Registry{}, Engines: map[string]Engine{}}
	p.Files, p.Included = l.names, l.included
	requested, diags := l.request()
	if diags.HasErrors() {
		return nil, diags
	}
	p.Requested = requested
	asked := map[string]bool{}
	for _, name := range requested {
		asked[name] = true
	}
	rest := slices.Clone(requested)
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
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
		rest = append(rest, linked...)
		if !asked[name] {
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
			continue // nobody asked for it
		}
		p.Groups[name] = &Group{Name: name, Targets: members, Description: l.groupDescription(name)}
	}
	return p, append(diags, l.unusedOverrides()...)
}
