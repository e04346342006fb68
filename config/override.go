package config

import (
	"maps"
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
		return nil, badOverride(text, "unknown key \""+parts[1]+"\""+nearest(parts[1], s.setKeys()))
	}
	o.attribute = a
	takesSub := a.kind == kindMap || a.kind == kindSecrets && parts[1] == "secret" || a.kind == kindTests
	switch {
	case a.kind == kindMap && o.sub == "":
		return nil, badOverride(text, "expected TARGET."+parts[1]+".NAME=VALUE")
	case !takesSub && o.sub != "":
		return nil, badOverride(text, "key \""+parts[1]+"\" has no sub-keys")
	case !hasValue && a.name != "args":
		return nil, badOverride(text, "expected =VALUE")
	case o.add && (a.name == "resources" || a.kind == kindSecrets && o.sub != ""):
		return nil, badOverride(text, "key \""+parts[1]+"\" takes = and not +=")
	case a.name == "annotations" && o.value != "" && !strings.Contains(o.value, "="):
		return nil, badOverride(text, "expected KEY=VALUE")
	case a.name == "resources" && !slices.Contains(resourceNames(), o.sub):
		return nil, badOverride(text, "unknown resource \""+o.sub+"\""+nearest(o.sub, resourceNames())+
			"; use one of "+strings.Join(resourceNames(), ", "))
	}
	return o, nil
}

// parseToggle parses PATTERN.push=BOOL and PATTERN.load=BOOL.
func (o *override) parseToggle(key string, s schema) (*override, hcl.Diagnostics) {
	on, err := parseBool(o.value)
	switch {
	case o.sub != "":
		return nil, badOverride(o.text, "key \""+key+"\" has no sub-keys")
	case err != nil:
		return nil, badOverride(o.text, "expected =true or =false")
	}
	o.attribute, o.toggle, o.on = s["output"], key, on
	return o, nil
}

// attrName is an attribute of a target.
type attrName struct{ target, attribute string }

// indexOverrides records which --set applies to which attribute of which target: by the name of a target, a group or a
// matrix, or by a pattern. The work is linear in the number of targets that the overrides name.
func (l *loader) indexOverrides() hcl.Diagnostics {
	l.byTarget = map[attrName][]*override{}
	var diags hcl.Diagnostics
	for _, o := range l.overrides {
		names, more := l.overridden(o)
		diags = append(diags, more...)
		for _, name := range names {
			key := attrName{name, o.attribute.name}
			l.byTarget[key] = append(l.byTarget[key], o)
		}
	}
	return diags
}

// overridden returns the targets that a --set applies to.
func (l *loader) overridden(o *override) ([]string, hcl.Diagnostics) {
	if _, ok := l.defs[o.pattern]; ok {
		return []string{o.pattern}, nil
	}
	if l.groups[o.pattern] != nil {
		return l.expand(o.pattern)
	}
	if !strings.ContainsAny(o.pattern, "*?[") {
		return nil, badOverride(o.text, "unknown target \""+o.pattern+"\""+l.nearestName(o.pattern, nil))
	}
	var names []string
	for _, name := range l.order {
		ok, err := path.Match(o.pattern, name)
		if err != nil {
			return nil, badOverride(o.text, "invalid pattern \""+o.pattern+"\"")
		}
		if ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 && len(l.order) > 0 {
		return nil, badOverride(o.text, "no target matches \""+o.pattern+"\"; available: "+someOf(l.order))
	}
	return names, nil
}

// overrideValue applies --set to an attribute of a target. For lists, all values of a key together replace or extend
// the value of the files: the last operator decides, and an empty value discards what comes before it. Secrets by ID
// apply after whole lists, and toggles after all others, wherever they are on the command line.
func (l *loader) overrideValue(name string, a attribute, value any) (any, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	var later, toggles []*override
	lists := overriddenList{attribute: a}
	if m, ok := value.(map[string]string); ok && len(l.byTarget[attrName{name, a.name}]) > 0 {
		value = maps.Clone(m) // applyOverride sets entries in it
	}
	for _, o := range l.byTarget[attrName{name, a.name}] {
		var more hcl.Diagnostics
		switch {
		case o.toggle != "":
			toggles = append(toggles, o)
		case o.sub != "" && (a.kind == kindSecrets || a.kind == kindTests):
			later = append(later, o)
		case a.isList():
			more = lists.add(o)
		default:
			value, more = l.applyOverride(o, value)
		}
		diags = append(diags, more...)
	}
	value, more := a.applyElements(later, lists.apply(value))
	diags = append(diags, more...)
	for _, o := range toggles {
		outputs, _ := value.([]Attrs)
		value = o.toggled(outputs)
	}
	return value, diags
}

// applyOverride applies a --set whose value is no list.
func (l *loader) applyOverride(o *override, value any) (any, hcl.Diagnostics) {
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
		m, ok := value.(map[string]string)
		if !ok {
			m = map[string]string{}
		}
		m[o.sub] = text
		return m, nil
	}
	return value, nil
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

// overrideItems returns the value of a --set as a list.
func (a attribute) overrideItems(o *override) (any, error) {
	if a.kind == kindStrings {
		return []string{o.value}, nil
	}
	text := o.value
	if a.kind == kindTests && o.sub != "" {
		text = "name=" + o.sub + "," + text
	}
	lists, err := a.parse(text)
	if err != nil {
		return nil, err
	}
	return a.fromAttrs(lists)
}
