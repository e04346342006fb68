package config

import (
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// axis is one variable of a matrix and its values.
type axis struct {
	name   string
	values []cty.Value
}

// matrix is the matrix of a target. Its axes are sorted by name, so that the order of the targets is the same in each
// run.
type matrix struct {
	axes    []axis
	include []map[string]cty.Value // additional variables of combinations, or additional combinations
	exclude []map[string]cty.Value // combinations to remove
	at      hcl.Range
}

// defineMatrix defines a target for each combination of a matrix, and a group of them with the label of the block.
func (l *loader) defineMatrix(b *block) hcl.Diagnostics {
	m, diags := l.matrix(b)
	if diags.HasErrors() {
		return diags
	}
	all, diags := m.combinations()
	if diags.HasErrors() {
		return diags
	}
	nameAttr := b.attrs["name"]
	if nameAttr == nil && len(all) == 1 {
		l.defineTarget(b.label, targetDef{block: b, locals: all[0]})
		return diags
	}
	if nameAttr == nil && len(all) > 1 {
		return hcl.Diagnostics{problem(&b.at, "the matrix of target %q has %d combinations; add a name with a "+
			"different value for each, such as name = \"%s-${%s}\"", b.label, len(all), b.label, m.axisName())}
	}
	if nameAttr == nil {
		return diags
	}
	at := nameAttr.Expr.Range()
	var members []string
	used := map[string]bool{}
	for _, locals := range all {
		v, more := l.scope.eval(nameAttr.Expr, locals)
		diags = append(diags, more...)
		if more.HasErrors() {
			return diags
		}
		name, err := asString(v)
		switch {
		case err != nil || !validName(name):
			return append(diags, problem(&at,
				"invalid target name, %s; use letters, digits, _ and - (sanitize() replaces others)", friendlyType(v)))
		case used[name]:
			return append(diags, problem(&at, "matrix: two combinations are named %q", name))
		}
		members, used[name] = append(members, name), true
		l.defineTarget(name, targetDef{block: b, locals: locals})
	}
	if len(members) == 1 && members[0] == b.label || len(members) == 0 {
		return diags
	}
	if g := l.groups[b.label]; g == nil || g.block != nil {
		l.groups[b.label] = &groupDef{}
	}
	g := l.groups[b.label]
	g.members = unique(append(g.members, members...))
	return diags
}

// matrix evaluates the attribute matrix. include and exclude are axes unless they are lists of objects.
func (l *loader) matrix(b *block) (*matrix, hcl.Diagnostics) {
	expr := b.attrs["matrix"].Expr
	m := &matrix{at: expr.Range()}
	v, diags := l.scope.eval(expr, nil)
	if diags.HasErrors() {
		return nil, diags
	}
	if t := v.Type(); v.IsNull() || !t.IsObjectType() && !t.IsMapType() {
		return nil, hcl.Diagnostics{problem(&m.at, "matrix: expected an object of lists, got %s", friendlyType(v))}
	}
	total := 1
	for _, name := range slices.Sorted(maps.Keys(v.AsValueMap())) {
		list := v.AsValueMap()[name]
		if !list.CanIterateElements() { // the values of an object are a list too
			at := l.itemRange(expr, itemError{key: name})
			return nil, hcl.Diagnostics{problem(&at, "matrix: %s: expected a list, got %s", name, friendlyType(list))}
		}
		values := axisValues(list)
		if total > maxTargets || len(values) > maxTargets {
			return nil, hcl.Diagnostics{m.tooMany()}
		}
		switch objects := asObjects(values); {
		case name == "include" && objects != nil:
			m.include = objects
		case name == "exclude" && objects != nil:
			m.exclude = objects
		default:
			total *= len(values)
			m.axes = append(m.axes, axis{name, values})
		}
	}
	if total > maxTargets {
		return nil, hcl.Diagnostics{m.tooMany()}
	}
	return m, m.checkExclude()
}

// axisName returns the name of the first axis.
func (m *matrix) axisName() string {
	if len(m.axes) == 0 {
		return "axis"
	}
	return m.axes[0].name
}

func (m *matrix) tooMany() *hcl.Diagnostic {
	return problem(&m.at, "matrix: more than %d targets", maxTargets)
}

// axisValues returns the elements of a list or the values of an object, in the order of its keys.
func axisValues(list cty.Value) []cty.Value {
	var all []cty.Value
	for it := list.ElementIterator(); it.Next(); {
		_, v := it.Element()
		all = append(all, v)
	}
	return all
}

// asObjects returns the values as objects, or nil if one is not an object.
func asObjects(values []cty.Value) []map[string]cty.Value {
	var all []map[string]cty.Value
	for _, v := range values {
		if t := v.Type(); v.IsNull() || !t.IsObjectType() && !t.IsMapType() {
			return nil
		}
		all = append(all, v.AsValueMap())
	}
	return all
}

// checkExclude reports names in exclude that are not axes. They would have no effect.
func (m *matrix) checkExclude() hcl.Diagnostics {
	var names []string
	for _, a := range m.axes {
		names = append(names, a.name)
	}
	for _, e := range m.exclude {
		for _, name := range slices.Sorted(maps.Keys(e)) {
			if !slices.Contains(names, name) {
				return hcl.Diagnostics{problem(&m.at, "matrix: unknown axis %q in exclude%s", name,
					nearest(name, names))}
			}
		}
	}
	return nil
}

// combinations returns the product of the axes, with the last axis changing fastest, without the excluded
// combinations. An included object is added to the combinations that agree with it; if there is none, it is a
// combination of its own. Variables that a combination lacks are null.
func (m *matrix) combinations() ([]map[string]cty.Value, hcl.Diagnostics) {
	all := []map[string]cty.Value{{}}
	if len(m.axes) == 0 && len(m.include) > 0 {
		all = nil
	}
	for _, a := range m.axes {
		var next []map[string]cty.Value
		for _, c := range all {
			for _, v := range a.values {
				n := maps.Clone(c)
				n[a.name] = v
				next = append(next, n)
			}
		}
		all = next
	}
	all = slices.DeleteFunc(all, func(c map[string]cty.Value) bool {
		return slices.ContainsFunc(m.exclude, func(e map[string]cty.Value) bool { return len(e) > 0 && m.agrees(c, e) })
	})
	product := len(all)
	for _, more := range m.include {
		added := false
		for _, c := range all[:product] {
			if m.agrees(c, more) {
				maps.Copy(c, more)
				added = true
			}
		}
		if !added {
			all = append(all, maps.Clone(more))
		}
		if len(all) > maxTargets {
			return nil, hcl.Diagnostics{m.tooMany()}
		}
	}
	m.complete(all)
	return all, nil
}

// agrees reports whether a combination has the values that an object gives for axes. An object without axes agrees
// with every combination.
func (m *matrix) agrees(c, with map[string]cty.Value) bool {
	for _, a := range m.axes {
		if v, ok := with[a.name]; ok && !v.RawEquals(c[a.name]) {
			return false
		}
	}
	return true
}

// complete sets variables that only other combinations have to null.
func (m *matrix) complete(all []map[string]cty.Value) {
	if len(m.include) == 0 {
		return
	}
	names := map[string]bool{}
	for _, c := range all {
		for name := range c {
			names[name] = true
		}
	}
	for _, c := range all {
		for name := range names {
			if _, ok := c[name]; !ok {
				c[name] = cty.NullVal(cty.DynamicPseudoType)
			}
		}
	}
}
