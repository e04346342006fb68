package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// addLocals records the attributes of a locals block, which are visible only in its file.
func (s *scope) addLocals(file string, b *block) hcl.Diagnostics {
	known := s.locals[file]
	if known == nil {
		known = hcl.Attributes{}
		s.locals[file] = known
	}
	var diags hcl.Diagnostics
	for name, a := range b.attrs {
		if _, twice := known[name]; twice {
			at := a.NameRange
			diags = append(diags, problem(&at, "duplicate local.%s in this file", name))
		}
		known[name] = a
	}
	return diags
}

// localValues returns the value of "local" for an expression, with only the names that its references use.
func (s *scope) localValues(file string, refs []hcl.Traversal) (cty.Value, hcl.Diagnostics) {
	object := map[string]cty.Value{}
	var diags hcl.Diagnostics
	for _, t := range refs {
		at := t.SourceRange()
		name, ok := attrStep(t, 1)
		if !ok {
			diags = append(diags, problem(&at, "incomplete reference; write local.NAME"))
			continue
		}
		v, more := s.local(file, name, &at)
		diags = append(diags, more...)
		object[name] = v
	}
	return cty.ObjectVal(object), diags
}

func (s *scope) local(file, name string, at *hcl.Range) (cty.Value, hcl.Diagnostics) {
	a := s.locals[file][name]
	if a == nil {
		hint := s.hint(func() string { return nearest(name, slices.Collect(maps.Keys(s.locals[file]))) })
		return cty.DynamicVal, hcl.Diagnostics{problem(at, "unknown local %q in this file%s", name, hint)}
	}
	key := fmt.Sprintf("local.%s in %s", name, file)
	if v, ok := s.values[key]; ok {
		return v, nil
	}
	done, diags := s.enter(key, at)
	if diags != nil {
		return cty.DynamicVal, diags
	}
	defer done()
	v, diags := s.eval(a.Expr, nil)
	if !diags.HasErrors() {
		s.values[key] = v
	}
	return v, diags
}

// selfName is the variable that describes the evaluated target: self.name.
const selfName = "self"

// usesSelf reports whether an attribute of a target, or of one it inherits from, refers to self. Then its value is
// different for each target that inherits it.
func (l *loader) usesSelf(name string, a attribute) bool {
	if !l.anySelf {
		return false
	}
	key := attrKey{target: name, attribute: a.name}
	if uses, ok := l.selfUse[key]; ok {
		return uses
	}
	l.selfUse[key] = false // ends the recursion if targets inherit in a cycle
	uses := false
	for _, d := range l.defs[name] {
		if written := d.block.attrs[a.name]; written != nil && mentions(written.Expr, selfName) {
			uses = true
		}
	}
	if a.name != "inherits" && !uses {
		parents, _ := l.parents(name)
		uses = slices.ContainsFunc(parents, func(p string) bool { return l.usesSelf(p, a) })
	}
	l.selfUse[key] = uses
	return uses
}

// mentions reports whether an expression refers to a variable.
func mentions(e hcl.Expression, name string) bool {
	return slices.ContainsFunc(e.Variables(), func(t hcl.Traversal) bool { return t.RootName() == name })
}

// withSelf adds the variable self to locals, unless the files define one of that name.
func (l *loader) withSelf(locals map[string]cty.Value, self string) map[string]cty.Value {
	defined := l.scope.variables[selfName] != nil || l.scope.globals[selfName] != nil
	if _, ok := locals[selfName]; ok || !l.anySelf || defined {
		return locals
	}
	all := maps.Clone(locals)
	if all == nil {
		all = map[string]cty.Value{}
	}
	all[selfName] = cty.ObjectVal(map[string]cty.Value{"name": cty.StringVal(self)})
	return all
}

// attrRange returns the position of the last definition of an attribute of a target.
func (l *loader) attrRange(target, attribute string) hcl.Range {
	v, _ := l.value(target, l.schema[attribute], nil)
	return v.at
}

// isContextReference reports whether an expression is target.NAME.context, whose value is already relative to the
// project.
func isContextReference(e hcl.Expression) bool {
	refs := e.Variables()
	if len(refs) != 1 || refs[0].RootName() != "target" {
		return false
	}
	attr, ok := attrStep(refs[0], 2)
	return ok && attr == "context" && len(refs[0]) == 3
}

// rebase returns a value with its paths relative to the project instead of to the file.
func (d *document) rebase(a attribute, value any) any {
	switch v := value.(type) {
	case string:
		if a.name == "context" {
			return rebased(d.contextDir, v)
		}
	case map[string]string:
		if a.name == "contexts" && d.contextDir != "" {
			all := maps.Clone(v)
			for name, p := range all {
				all[name] = rebased(d.contextDir, p)
			}
			return all
		}
	case []Secret:
		if d.dir != "" {
			all := slices.Clone(v)
			for i := range all {
				all[i].Src = rebased(d.dir, all[i].Src)
			}
			return all
		}
	case []SSH:
		if d.dir != "" {
			all := slices.Clone(v)
			for i := range all {
				all[i].Paths = slices.Clone(all[i].Paths)
				for j, p := range all[i].Paths {
					all[i].Paths[j] = rebased(d.dir, p)
				}
			}
			return all
		}
	case []Test:
		if d.dir != "" {
			all := slices.Clone(v)
			for i := range all {
				all[i].Structure = rebased(d.dir, all[i].Structure)
			}
			return all
		}
	case []Attrs:
		if d.dir != "" {
			return d.rebaseAttrs(v)
		}
	}
	return value
}

// rebaseAttrs is rebase for outputs, caches and policies.
func (d *document) rebaseAttrs(list []Attrs) []Attrs {
	var all []Attrs
	for _, m := range list {
		m = maps.Clone(m)
		for _, key := range []string{"dest", "src", "filename"} {
			if p, ok := m[key]; ok && p != "-" {
				m[key] = rebased(d.dir, p)
			}
		}
		all = append(all, m)
	}
	return all
}

// rebased returns p relative to the project instead of to dir. Absolute paths, URLs and other references stay as they
// are.
func rebased(dir, p string) string {
	if dir == "" || p == "" || filepath.IsAbs(p) || strings.Contains(p, "://") || strings.HasPrefix(p, "target:") ||
		strings.HasPrefix(p, "docker-image:") || strings.HasPrefix(p, "git@") {
		return p
	}
	return filepath.Join(dir, p)
}
