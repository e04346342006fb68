package config

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// scope evaluates expressions. A variable or local is evaluated once, when it is first needed. A name that depends on
// itself is an error that shows the whole cycle; see loader.
type scope struct {
	opts      Options
	ctx       context.Context           // of the evaluation; see interruptible
	variables map[string]*block         // the last block of each name
	globals   map[string]*hcl.Attribute // attributes outside of blocks
	functions map[string]function.Function
	locals    map[string]hcl.Attributes // of locals blocks, by file: they are visible only there
	values    map[string]cty.Value
	failed    map[string]bool   // names whose definition has an error, which is reported already
	path      namePath          // names under evaluation, outermost first
	sizes     map[string]int    // of values, see referenced
	vars      map[string]string // the last --var of each name; nil until the first is needed
	hints     int               // suggestions made so far, see hint
	target    func(name string, attrs []string, at *hcl.Range) (cty.Value, hcl.Diagnostics)
}

// These variables are defined in every file.
const (
	cmdContext    = "BAKE_CMD_CONTEXT"
	localPlatform = "BAKE_LOCAL_PLATFORM"
)

// context returns the context of an evaluation, without variables. It does not return once s.ctx has ended.
func (s *scope) context() *hcl.EvalContext {
	endIfDone(s.ctx)
	return &hcl.EvalContext{Variables: map[string]cty.Value{}, Functions: s.functions}
}

// eval evaluates an expression. locals take precedence over all other names.
func (s *scope) eval(e hcl.Expression, locals map[string]cty.Value) (cty.Value, hcl.Diagnostics) {
	ctx := s.context()
	var diags hcl.Diagnostics
	var targets, fileLocals []hcl.Traversal
	for _, t := range e.Variables() {
		name := t.RootName()
		if v, ok := locals[name]; ok {
			ctx.Variables[name] = v
			continue
		}
		if name == "target" && s.target != nil {
			targets = append(targets, t)
			continue
		}
		if name == "local" && len(s.locals[e.Range().Filename]) > 0 {
			fileLocals = append(fileLocals, t)
			continue
		}
		if name == "local" && !s.defines(name) {
			at := t.SourceRange()
			return cty.DynamicVal, append(diags, problem(&at,
				"this file has no locals block; locals of other files are not visible here"))
		}
		if s.isType(name) || !s.defines(name) {
			continue // the second argument of convert; HCL reports other names where it needs their value
		}
		at := t.SourceRange()
		v, more := s.variable(name, &at)
		diags = append(diags, more...)
		ctx.Variables[name] = v
	}
	if len(fileLocals) > 0 {
		v, more := s.localValues(e.Range().Filename, fileLocals)
		diags = append(diags, more...)
		ctx.Variables["local"] = v
	}
	if len(targets) > 0 {
		v, more := s.targets(targets)
		diags = append(diags, more...)
		ctx.Variables["target"] = v
	}
	if diags.HasErrors() {
		return cty.DynamicVal, diags
	}
	at := e.Range()
	if total := s.referenced(e, ctx.Variables, locals); total > maxValue {
		return cty.DynamicVal, hcl.Diagnostics{
			problem(&at, "the values used in this expression exceed %d bytes", maxValue),
		}
	}
	v, more := e.Value(ctx)
	s.suggestVariables(e, more)
	more = explained(more)
	s.suggestFunctions(more)
	if !more.HasErrors() {
		more = append(more, checkStrings(v, at)...)
	}
	return v, append(diags, more...)
}

// referenced returns the size of the values that an expression refers to, each as often as it refers to it, in bytes.
// The size of a variable is computed once: a thousand targets may look up one name each in a table of a thousand.
func (s *scope) referenced(e hcl.Expression, values, locals map[string]cty.Value) int {
	total := 0
	for _, t := range e.Variables() {
		name := t.RootName()
		_, isLocal := locals[name]
		_, isVariable := s.values[name]
		if isLocal || !isVariable {
			total += size(values[name])
		} else {
			total += s.sizeOf(name)
		}
		if total > maxValue {
			break
		}
	}
	return total
}

// sizeOf returns the size of an evaluated variable.
func (s *scope) sizeOf(name string) int {
	n, known := s.sizes[name]
	if !known {
		n = size(s.values[name])
		s.sizes[name] = n
	}
	return n
}

// suggestFunctions replaces the text of unknown function errors, since the suggestions of HCL are often poor.
func (s *scope) suggestFunctions(diags hcl.Diagnostics) {
	for _, d := range diags {
		var name string
		if d.Summary != "Call to unknown function" {
			continue
		}
		if n, err := fmt.Sscanf(d.Detail, "There is no function named %q", &name); n != 1 || err != nil {
			continue
		}
		d.Summary, d.Detail = fmt.Sprintf("unknown function %q%s", name, s.hint(func() string {
			return nearest(name, slices.Collect(maps.Keys(s.functions)))
		})), ""
	}
}

// isType reports whether a name denotes a type, which a definition of that name in a file hides.
func (s *scope) isType(name string) bool {
	switch name {
	case "string", "number", "bool", "any":
		return s.variables[name] == nil && s.globals[name] == nil
	}
	return false
}

// targets returns the value of "target" for an expression, with only the attributes that its references use. Any other
// attribute would be evaluated needlessly and could close a cycle.
func (s *scope) targets(refs []hcl.Traversal) (cty.Value, hcl.Diagnostics) {
	attrs := map[string][]string{}
	ranges := map[string]*hcl.Range{}
	var order []string
	var diags hcl.Diagnostics
	for _, t := range refs {
		at := t.SourceRange()
		name, ok := attrStep(t, 1)
		if !ok {
			diags = append(diags, problem(&at, "incomplete reference; write target.NAME.ATTRIBUTE"))
			continue
		}
		if _, seen := attrs[name]; !seen {
			order = append(order, name)
			ranges[name] = &at
			attrs[name] = nil
		}
		if attr, ok := attrStep(t, 2); ok {
			attrs[name] = append(attrs[name], attr)
		}
	}
	object := map[string]cty.Value{}
	for _, name := range order {
		v, more := s.target(name, attrs[name], ranges[name])
		diags = append(diags, more...)
		object[name] = v
	}
	return cty.ObjectVal(object), diags
}

// attrStep returns the n-th step of a traversal if it is .NAME or ["NAME"].
func attrStep(t hcl.Traversal, n int) (string, bool) {
	if len(t) <= n {
		return "", false
	}
	switch step := t[n].(type) {
	case hcl.TraverseAttr:
		return step.Name, true
	case hcl.TraverseIndex:
		if step.Key.Type() == cty.String {
			return step.Key.AsString(), true
		}
	}
	return "", false
}

// variable returns the value of a variable block or of an attribute outside of blocks.
func (s *scope) variable(name string, at *hcl.Range) (cty.Value, hcl.Diagnostics) {
	if v, ok := s.values[name]; ok {
		return v, nil
	}
	if s.failed[name] {
		return cty.DynamicVal, hcl.Diagnostics{problem(at, "%q has no value: its definition has an error", name)}
	}
	done, diags := s.enter("variable "+name, at)
	if diags != nil {
		return cty.DynamicVal, diags
	}
	defer done()
	v, diags := s.define(name, at)
	if diags.HasErrors() {
		s.failed[name] = true
		return cty.DynamicVal, diags
	}
	s.values[name] = v
	return v, diags
}

// define evaluates the definition of a variable.
func (s *scope) define(name string, at *hcl.Range) (cty.Value, hcl.Diagnostics) {
	switch name {
	case cmdContext:
		if d := s.opts.Definition; d != nil && d.Context != "" {
			return cty.StringVal(d.Context), nil
		}
		return cty.StringVal("cwd://"), nil
	case localPlatform:
		return cty.StringVal(s.opts.platform()), nil
	}
	if b, ok := s.variables[name]; ok {
		if a := s.globals[name]; a != nil {
			b = b.withDefault(a)
		}
		return s.variableBlock(name, b)
	}
	if a, ok := s.globals[name]; ok {
		return s.eval(a.Expr, nil)
	}
	return cty.DynamicVal, hcl.Diagnostics{problem(at, "unknown variable %q%s", name, s.variableHint(name))}
}

// defines reports whether a variable or an attribute outside of blocks has a name.
func (s *scope) defines(name string) bool {
	return name == cmdContext || name == localPlatform || s.variables[name] != nil || s.globals[name] != nil
}

// variableHint returns the suggestion for an unknown variable.
func (s *scope) variableHint(name string) string {
	return s.hint(func() string {
		known := slices.Concat([]string{cmdContext, localPlatform}, slices.Collect(maps.Keys(s.variables)),
			slices.Collect(maps.Keys(s.globals)))
		return nearest(name, known)
	})
}

// suggestVariables replaces the text of unknown variable errors, as suggestFunctions does for functions.
func (s *scope) suggestVariables(e hcl.Expression, diags hcl.Diagnostics) {
	for i, d := range diags {
		if d.Summary != "Unknown variable" || d.Subject == nil {
			continue
		}
		for _, t := range e.Variables() {
			if root := t.SourceRange(); root.Filename == d.Subject.Filename && root.Start == d.Subject.Start {
				name := t.RootName()
				diags[i] = problem(&root, "unknown variable %q%s", name, s.variableHint(name))
				break
			}
		}
	}
}

// hint returns the suggestion for an unknown name. A suggestion compares the name with all others, so a project of
// thousands of mistakes gets suggestions only for as many as are shown.
func (s *scope) hint(suggest func() string) string {
	if s.hints++; s.hints > maxShown {
		return ""
	}
	return suggest()
}

// enter records that a name is under evaluation until the returned function is called. It returns an error if the
// name is already under evaluation, which is a cycle.
func (s *scope) enter(what string, at *hcl.Range) (func(), hcl.Diagnostics) {
	if cycle := s.path.cycle(what); cycle != "" {
		return nil, hcl.Diagnostics{problem(at, "cycle: %s depends on itself (%s)", what, cycle)}
	}
	s.path.push(what)
	return s.path.pop, nil
}

// text evaluates an attribute to a string. ok is false if the attribute is not set or null.
func (s *scope) text(b *block, name string) (text string, ok bool, diags hcl.Diagnostics) {
	a := b.attrs[name]
	if a == nil {
		return "", false, nil
	}
	v, diags := s.eval(a.Expr, nil)
	if diags.HasErrors() || v.IsNull() {
		return "", false, diags
	}
	text, err := asString(v)
	if err != nil {
		at := a.Expr.Range()
		diags = append(diags, problem(&at, "%s: expected a string, got %s", name, friendlyType(v)))
	}
	return text, true, diags
}

// friendlyType describes a value in messages.
func friendlyType(v cty.Value) string {
	switch t := v.Type(); {
	case v.IsNull():
		return "null"
	case t == cty.String:
		return fmt.Sprintf("the string %q", clip(v.AsString()))
	case t == cty.Bool:
		return "a bool"
	case t == cty.Number:
		return "a number"
	case t.IsTupleType(), t.IsListType(), t.IsSetType():
		return "a list"
	case t.IsObjectType(), t.IsMapType():
		return "an object"
	default:
		return t.FriendlyName()
	}
}
