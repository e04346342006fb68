package config

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
)

// isList reports whether several --set of the attribute accumulate.
func (a attribute) isList() bool {
	switch a.kind {
	case kindStrings, kindAttrs, kindSecrets, kindSSH, kindTests:
		return true
	}
	return false
}

// overriddenList accumulates the --set of an attribute that is a list. Scripts pass thousands of them, so adding one
// must not cost as much as all before it: the values are merged once, by apply.
type overriddenList struct {
	attribute
	values  []any // lists, in the order of the command line
	used    bool
	extends bool // the last operator was +=
	clear   bool // an empty value came with =
}

func (s *overriddenList) add(o *override) hcl.Diagnostics {
	s.used = true
	if !o.add && o.value == "" {
		s.clear, s.extends, s.values = true, false, nil
		return nil
	}
	items, err := s.overrideItems(o)
	if err != nil {
		return badOverride(o.text, err.Error())
	}
	s.values = append(s.values, items)
	s.extends = o.add && !s.clear
	return nil
}

// apply returns the value of the files with the accumulated values. As in Docker Bake, annotations, entitlements and
// attestations are always added unless they are cleared.
func (s *overriddenList) apply(value any) any {
	switch {
	case !s.used:
		return value
	case len(s.values) == 0:
		return s.empty()
	}
	merged := s.merged()
	adds := s.name == "annotations" || s.name == "entitlements" || s.name == "attest"
	if s.clear || !s.extends && !adds {
		return merged
	}
	added := s.attribute
	if s.name != "attest" {
		added.merge = mergeAppend
	}
	return added.combine(value, merged)
}

// merged returns what combine gives for the values one after the other.
func (s *overriddenList) merged() any {
	if len(s.values) == 1 {
		return s.values[0]
	}
	switch s.kind {
	case kindStrings:
		return unique(concat[string](s.values))
	case kindSecrets:
		return byID(nil, concat[Secret](s.values), func(s Secret) string { return s.ID })
	case kindSSH:
		return byID(nil, concat[SSH](s.values), func(s SSH) string { return s.ID })
	case kindTests:
		return byID(nil, concat[Test](s.values), func(t Test) string { return t.Name })
	}
	var all []Attrs
	known := map[string]bool{}
	for _, v := range s.values {
		items, _ := v.([]Attrs)
		if len(items) == 1 && known[items[0].identity()] { // an earlier equal one stays where it is
			continue
		}
		if all = append(all, items...); len(items) > 1 {
			all = distinct(all)
		}
		for _, m := range items {
			known[m.identity()] = true
		}
	}
	return all
}

// concat returns the elements of lists of one type.
func concat[T any](lists []any) []T {
	var all []T
	for _, l := range lists {
		items, _ := l.([]T)
		all = append(all, items...)
	}
	return all
}

// applyElements applies each --set of one secret or one test of a list: it replaces that element or adds it. An empty
// value removes a test.
func (a attribute) applyElements(all []*override, value any) (any, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	var waiting []any // elements to add to value
	for _, o := range all {
		if a.kind == kindTests && o.value == "" {
			tests, _ := a.withElements(value, waiting).([]Test)
			value, waiting = slices.DeleteFunc(slices.Clone(tests), func(t Test) bool { return t.Name == o.sub }), nil
			continue
		}
		one, err := o.element()
		if err != nil {
			diags = append(diags, badOverride(o.text, err.Error())...)
			continue
		}
		waiting = append(waiting, one)
	}
	return a.withElements(value, waiting), diags
}

// withElements combines a value with lists of elements.
func (a attribute) withElements(value any, more []any) any {
	switch {
	case len(more) == 0:
		return value
	case a.kind == kindTests:
		return a.combine(value, byID(nil, concat[Test](more), func(t Test) string { return t.Name }))
	}
	return a.combine(value, byID(nil, concat[Secret](more), func(s Secret) string { return s.ID }))
}

// element returns the value of a --set of one secret or one test as a list.
func (o *override) element() (any, error) {
	if o.attribute.kind == kindTests {
		return o.attribute.overrideItems(o)
	}
	fields, err := o.attribute.parse(o.value)
	if err != nil {
		return nil, err
	}
	if len(fields) == 0 {
		return nil, errors.New("expected src=FILE or env=VARIABLE")
	}
	m := fields[0]
	if id, ok := m["id"]; ok && id != o.sub {
		return nil, fmt.Errorf("the secret is %q and its value says id=%s; remove id=%s", o.sub, id, id)
	}
	m["id"] = o.sub
	s, err := secretOf(m)
	return []Secret{s}, err
}
