package config

import (
	"cmp"
	"context"
	"io"
	"maps"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Options says what to load.
type Options struct {
	Dir      string   // absolute; where project files and relative paths of targets are looked for
	Files    []string // -f, in order of rank; empty: the usual names
	Set      []string // --set
	Vars     []string // --var NAME=VALUE
	Targets  []string // names or patterns of targets and groups; empty: "default"
	Env      map[string]string
	EnvFiles []string  // files of NAME=VALUE lines below the environment in rank; none: .env, for compose files alone
	Stdin    io.Reader // for -f -
	// Definition is where the files are; nil is Dir.
	Definition *Definition
	View       View          // what the files of this machine are read of; nil is the disk
	Limit      time.Duration // how long the evaluation may take; 0 is 20 seconds
}

// Bounds of the memory of an evaluation, in bytes above what is used when it begins, and how often it is looked at.
const (
	maxHeap   = 288 << 20
	softHeap  = 384 << 20 // of the whole process, from which on garbage is collected often
	heapPause = 5 * time.Millisecond
)

// evaluationLimit is how long an evaluation may take: hundreds of times what thousands of targets need.
const evaluationLimit = 20 * time.Second

func (o Options) view() View {
	if o.View == nil {
		return Disk{}
	}
	return o.View
}

func (o Options) platform() string { return "linux/" + runtime.GOARCH }

// Warning is something in a file that has no effect, or not the one that it seems to have.
type Warning struct {
	Range   Range
	Message string
}

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
	asked     []string
	sound     map[string]bool // targets whose parents form no circle
	selfish   map[attrKey]bool
	anySelf   bool // the word stands somewhere in the files
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
	r, err := inTime(ctx, opts, func(l *loader) (result, hcl.Diagnostics) {
		p, diags := l.project()
		return result{p, l.warned()}, diags
	})
	return r.project, r.warnings, err
}

// inTime reads the files and evaluates until the time is up or ctx is cancelled. An evaluation that is given up goes on
// beside, since nothing can stop one in the middle of an expression; the caller is about to end.
func inTime[T any](ctx context.Context, opts Options, evaluate func(*loader) (T, hcl.Diagnostics)) (T, error) {
	limit := opts.Limit
	if limit == 0 {
		limit = evaluationLimit
	}
	var none T
	var far *remote
	if opts.Definition != nil {
		var err error
		if far, err = opts.Definition.open(ctx); err != nil {
			return none, Diagnostics{list: hcl.Diagnostics{problem(nil, "%v", err)}, cause: err}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		if far != nil {
			defer far.root.Close()
		}
		l, diags := newLoader(ctx, opts, far)
		value := none
		if !diags.HasErrors() {
			value, diags = evaluate(l)
		}
		if diags.HasErrors() {
			done <- result{none, l.failed(diags)}
			return
		}
		done <- result{value, nil}
	}()
	if old := debug.SetMemoryLimit(-1); old > softHeap {
		debug.SetMemoryLimit(softHeap)
		defer debug.SetMemoryLimit(old)
	}
	for before := heapBytes(); ; {
		var one *hcl.Diagnostic
		select {
		case r := <-done:
			return r.value, r.err
		case <-ctx.Done():
			one = problem(nil, "the project files were not evaluated within %v: look for loops within loops (for … in)", limit)
		case <-time.After(heapPause):
			if now := heapBytes(); now < before+maxHeap {
				continue
			}
			one = problem(nil, "the project files take more than %d MiB to evaluate: look for loops within loops (for … in) and values that double", maxHeap>>20)
		}
		return none, Diagnostics{list: hcl.Diagnostics{one}}
	}
}

// heapBytes is what this process had in use when its garbage was last collected, in bytes.
func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func (l *loader) failed(diags hcl.Diagnostics) error {
	d := Diagnostics{files: l.files}
	seen := map[string]bool{}
	for _, one := range diags {
		key := one.Summary + "\x00" + one.Detail
		if one.Subject != nil {
			key += one.Subject.String()
		}
		if one.Severity == hcl.DiagError && !seen[key] {
			seen[key] = true
			d.list = append(d.list, one)
		}
	}
	slices.SortStableFunc(d.list, byPlace)
	return d
}

// byPlace orders diagnostics as they stand in a file; those without a place come first.
func byPlace(a, b *hcl.Diagnostic) int {
	if a.Subject == nil || b.Subject == nil {
		return cmp.Compare(btoi(a.Subject != nil), btoi(b.Subject != nil))
	}
	return cmp.Or(cmp.Compare(a.Subject.Filename, b.Subject.Filename), cmp.Compare(a.Subject.Start.Line, b.Subject.Start.Line),
		cmp.Compare(a.Subject.Start.Column, b.Subject.Start.Column))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (l *loader) warned() []Warning {
	var all []Warning
	for _, one := range l.warnings {
		w := Warning{Message: sentence(one)}
		if one.Subject != nil {
			w.Range = rangeOf(*one.Subject)
		}
		all = append(all, w)
	}
	return all
}

func rangeOf(r hcl.Range) Range {
	return Range{File: r.Filename, Line: r.Start.Line, Col: r.Start.Column}
}

// newLoader reads the files and notes all definitions, without evaluating any that need not be.
func newLoader(ctx context.Context, opts Options, far *remote) (*loader, hcl.Diagnostics) {
	opts, err := opts.withEnvFiles()
	l := &loader{
		opts: opts, remote: far, schema: newSchema(), files: map[string]*hcl.File{}, defs: map[string][]targetDef{},
		groups: map[string]*groupDef{}, values: map[attrKey]attrValue{}, sound: map[string]bool{}, selfish: map[attrKey]bool{},
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
			diags = append(diags, problem(nil, "--var %s: no project file has a variable %q%s", v, name, nearest(name, known)))
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
				one := problem(&b.at, "the built-in function %q goes before this one", b.label)
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
	p.Asked = unique(l.asked)
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

// shareEntitlements gives each target what the targets that it links to need.
func (p *Project) shareEntitlements() {
	done := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		t := p.Targets[name]
		if t == nil || done[name] {
			return
		}
		for _, key := range slices.Sorted(maps.Keys(t.Contexts)) {
			linked, ok := strings.CutPrefix(t.Contexts[key], "target:")
			if !ok || p.Targets[linked] == nil {
				continue
			}
			visit(linked)
			if more := p.Targets[linked].Entitlements; len(more) > 0 {
				t.Entitlements = unique(append(slices.Clone(t.Entitlements), more...))
			}
		}
		done[name] = true
	}
	for name := range p.Targets {
		visit(name)
	}
}

// links are the targets that a target's contexts name.
func (l *loader) links(t *Target) ([]string, hcl.Diagnostics) {
	var all []string
	var diags hcl.Diagnostics
	for _, value := range t.Contexts {
		name, ok := strings.CutPrefix(value, "target:")
		if !ok {
			continue
		}
		if _, known := l.defs[name]; !known {
			at := l.placeOf(t.Name, "contexts")
			diags = append(diags, problem(&at, "target %s links to target %q, which no file defines%s", t.Name, name, nearest(name, l.order)))
			continue
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return all, diags
}

// checkLinks finds targets that link to themselves, directly or not.
func (l *loader) checkLinks(p *Project) hcl.Diagnostics {
	state := map[string]int{} // 1: on the way, 2: done
	var diags hcl.Diagnostics
	var visit func(name string, way []string)
	visit = func(name string, way []string) {
		way = append(way, name)
		if state[name] == 1 {
			at := l.placeOf(name, "contexts")
			diags = append(diags, problem(&at, "targets link in a circle: %s", strings.Join(way[slices.Index(way, name):], " → ")))
			return
		}
		if state[name] == 2 || p.Targets[name] == nil {
			return
		}
		state[name] = 1
		linked, _ := l.links(p.Targets[name])
		for _, next := range linked {
			visit(next, way)
		}
		state[name] = 2
	}
	for _, name := range p.Requested {
		visit(name, nil)
	}
	return diags
}

// Absolute returns a clean absolute path. A relative path is below dir.
func Absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// absolute is a path relative to the project's directory.
func (o Options) absolute(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(o.Dir, p)
}
