package config

import (
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// override is one --set: PATTERN.KEY[.SUB][+]=VALUE.
type override struct {
	text      string // as written
	pattern   string
	attribute attribute
	sub       string
	add       bool // "+="
	value     string
	hasValue  bool
	used      bool
	toggle    string // "push" or "load": modifies the outputs
	on        bool   // the value of toggle
}

func badOverride(text, why string) hcl.Diagnostics {
	return hcl.Diagnostics{problem(nil, "--set %s: %s", text, why)}
}

// parseOverride parses the argument of --set.
func parseOverride(text string, s schema) (*override, hcl.Diagnostics) {
	o := &override{text: text}
	left, value, hasValue := strings.Cut(text, "=")
	o.value, o.hasValue = value, hasValue
	if hasValue {
		left, o.add = strings.CutSuffix(left, "+")
	}
	parts := strings.SplitN(left, ".", 3)
	if len(parts) < 2 {
		return nil, badOverride(text, "expected TARGET.KEY=VALUE")
	}
	o.pattern = parts[0]
	if len(parts) == 3 {
		o.sub = parts[2]
	}
	if parts[1] == "push" || parts[1] == "load" {
		return o.parseToggle(parts[1], s)
	}
	a, ok := s.bySet(parts[1])
	if !ok {
		return nil, badOverride(text, "unknown key \""+parts[1]+"\""+nearest(parts[1], s.names()))
	}
	o.attribute = a
	if _, err := path.Match(o.pattern, ""); err != nil {
		return nil, badOverride(text, "invalid pattern \""+o.pattern+"\"")
	}
	takesSub := a.kind == kindMap || a.kind == kindSecrets || a.kind == kindTests
	switch {
	case a.kind == kindMap && o.sub == "":
		return nil, badOverride(text, "expected TARGET."+parts[1]+".NAME=VALUE")
	case !takesSub && o.sub != "":
		return nil, badOverride(text, "key \""+parts[1]+"\" has no sub-keys")
	case !hasValue && a.name != "args":
		return nil, badOverride(text, "expected =VALUE")
	}
	return o, nil
}

// parseToggle parses PATTERN.push=BOOL and PATTERN.load=BOOL.
func (o *override) parseToggle(key string, s schema) (*override, hcl.Diagnostics) {
	on, err := parseBool(o.value)
	switch {
	case o.sub != "":
		return nil, badOverride(o.text, "key \""+key+"\" has no sub-keys")
	case err != nil || o.add:
		return nil, badOverride(o.text, "expected =true or =false")
	}
	o.attribute, o.toggle, o.on = s["output"], key, on
	return o, nil
}

// overrideValue applies --set to an attribute of a target. For lists the first "=" replaces the value of the files;
// further ones and "+=" append; an empty value clears. Toggles apply after all others, wherever they are on the
// command line.
func (l *loader) overrideValue(name string, a attribute, value any) (any, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	var toggles []*override
	replaced := false
	for _, o := range l.overrides {
		if o.attribute.name != a.name || !l.overrideMatches(o, name) {
			continue
		}
		o.used = true
		if o.toggle != "" {
			toggles = append(toggles, o)
			continue
		}
		next, more := l.applyOverride(o, value, &replaced)
		diags = append(diags, more...)
		value = next
	}
	for _, o := range toggles {
		outputs, _ := value.([]Attrs)
		value = o.toggled(outputs)
	}
	return value, diags
}

// overrideMatches reports whether a --set applies to a target: by its name, a pattern, or a group that contains it.
func (l *loader) overrideMatches(o *override, name string) bool {
	if ok, err := path.Match(o.pattern, name); err == nil && ok {
		return true
	}
	if _, isTarget := l.defs[o.pattern]; isTarget {
		return false
	}
	return l.groupContains(o.pattern, name)
}

func (l *loader) applyOverride(o *override, value any, replaced *bool) (any, hcl.Diagnostics) {
	a := o.attribute
	switch a.kind {
	case kindString:
		return o.value, nil
	case kindBool:
		b, err := parseBool(o.value)
		if err != nil {
			return value, badOverride(o.text, err.Error())
		}
		return b, nil
	case kindMap:
		text := o.value
		if !o.hasValue {
			v, ok := l.opts.Env[o.sub]
			if !ok {
				return value, nil
			}
			text = v
		}
		return a.combine(value, map[string]string{o.sub: text}), nil
	}
	if tests, ok := value.([]Test); ok && o.value == "" && o.sub != "" {
		return slices.DeleteFunc(slices.Clone(tests), func(t Test) bool { return t.Name == o.sub }), nil
	}
	if o.value == "" {
		*replaced = true
		return a.empty(), nil
	}
	next, err := a.overrideItems(o)
	if err != nil {
		return value, badOverride(o.text, err.Error())
	}
	if a.name == "attest" || a.kind == kindTests && o.sub != "" {
		return a.combine(value, next), nil
	}
	if !o.add && !*replaced {
		*replaced = true
		return next, nil
	}
	*replaced = true
	added := a
	added.merge = mergeAppend
	return added.combine(value, next), nil
}

// empty returns the empty value of an attribute that is a list.
func (a attribute) empty() any {
	switch a.kind {
	case kindStrings:
		return []string{}
	case kindSecrets:
		return []Secret{}
	case kindSSH:
		return []SSH{}
	case kindTests:
		return []Test{}
	}
	return []Attrs{}
}

func (a attribute) overrideItems(o *override) (any, error) {
	if a.kind == kindStrings {
		return []string{o.value}, nil
	}
	text := o.value
	if a.kind == kindSecrets && o.sub != "" {
		text = "id=" + o.sub + "," + text
	}
	if a.kind == kindTests && o.sub != "" {
		text = "name=" + o.sub + "," + text
	}
	lists, err := a.parse(text)
	if err != nil {
		return nil, err
	}
	return a.fromAttrs(lists)
}

// unusedOverrides reports each --set that names neither a target nor a group.
func (l *loader) unusedOverrides() hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, o := range l.overrides {
		if o.used || strings.ContainsAny(o.pattern, "*?[") {
			continue
		}
		if _, ok := l.defs[o.pattern]; ok || l.groups[o.pattern] != nil {
			continue
		}
		diags = append(diags, badOverride(o.text,
			"unknown target \""+o.pattern+"\""+nearest(o.pattern, l.allNames()))...)
	}
	return diags
}
