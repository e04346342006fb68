package config

import (
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// itemError is an error in one element of a list, or in one entry of an object.
type itemError struct {
	index int
	key   string // of the entry; "" in a list
	err   error
}

func (e itemError) Error() string {
	if e.key != "" {
		return e.key + ": " + e.err.Error()
	}
	return e.err.Error()
}

// decode converts an evaluated expression to the Go value of the attribute's kind: string, bool, []string,
// map[string]string, []Attrs, []Secret, []SSH or []Test. Null is nil, which means not set.
func (a attribute) decode(v cty.Value, at *hcl.Range) (any, hcl.Diagnostics) {
	if v.IsNull() {
		return nil, nil
	}
	value, err := a.convert(v)
	if err != nil {
		return nil, hcl.Diagnostics{problem(at, "%s: %v", a.name, err)}
	}
	return value, nil
}

func (a attribute) convert(v cty.Value) (any, error) {
	switch a.kind {
	case kindString:
		s, err := asString(v)
		if err != nil {
			return nil, fmt.Errorf("expected a string, got %s", friendlyType(v))
		}
		return s, nil
	case kindBool:
		return asBool(v)
	case kindStrings:
		return a.strings(v)
	case kindMap:
		return asMap(v)
	case kindCommand:
		return asCommand(v)
	case kindCommands:
		return asCommands(v)
	case kindConfig:
		return asConfig(v)
	}
	items, err := elements(v)
	if err != nil {
		return nil, err
	}
	lists := make([]Attrs, 0, len(items))
	for i, item := range items {
		if item.IsNull() {
			continue
		}
		more, err := a.attrs(item)
		if err == nil {
			_, err = a.fromAttrs(more)
		}
		if err != nil {
			return nil, itemError{index: i, err: err}
		}
		lists = append(lists, more...)
	}
	return a.fromAttrs(lists)
}

// asBool reads a bool by HCL's rules: a string must be true, false, 1 or 0.
func asBool(v cty.Value) (any, error) {
	b, err := convert.Convert(v, cty.Bool)
	if err != nil || !b.IsKnown() {
		return nil, fmt.Errorf("expected true or false, got %s", friendlyType(v))
	}
	return b.True(), nil
}

func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("expected true or false, got %q", clip(s))
	}
	return b, nil
}

// elements returns the elements of a list. A string or an object is a list of one element.
func elements(v cty.Value) ([]cty.Value, error) {
	t := v.Type()
	switch {
	case !v.IsKnown():
		return nil, fmt.Errorf("the value depends on something that is not known here")
	case t.IsTupleType(), t.IsListType(), t.IsSetType():
		return v.AsValueSlice(), nil
	case t == cty.Number || t == cty.Bool:
		return nil, fmt.Errorf("expected a list, got %s", friendlyType(v))
	}
	return []cty.Value{v}, nil
}

func (a attribute) strings(v cty.Value) (any, error) {
	items, err := elements(v)
	if err != nil {
		return nil, err
	}
	all := []string{}
	for i, item := range items {
		if item.IsNull() {
			continue
		}
		s, err := asString(item)
		if err != nil {
			return nil, itemError{index: i, err: fmt.Errorf("expected a string, got %s", friendlyType(item))}
		}
		if a.name == "annotations" && s != "" && !strings.Contains(s, "=") {
			return nil, itemError{index: i, err: fmt.Errorf("expected KEY=VALUE, got %q", clip(s))}
		}
		all = append(all, s)
	}
	if a.merge == mergeRepeat {
		return all, nil
	}
	return unique(all), nil
}

func asMap(v cty.Value) (map[string]string, error) {
	if t := v.Type(); !v.IsKnown() || !t.IsObjectType() && !t.IsMapType() {
		return nil, fmt.Errorf("expected an object, got %s", friendlyType(v))
	}
	all := map[string]string{}
	for name, item := range v.AsValueMap() {
		if item.IsNull() {
			continue
		}
		s, err := asString(item)
		if err != nil {
			return nil, itemError{key: name, err: fmt.Errorf("expected a string, got %s", friendlyType(item))}
		}
		all[name] = s
	}
	return all, nil
}

// attrs reads one element of a list of KEY=VALUE lists: an object, or a string that may have several entries.
func (a attribute) attrs(v cty.Value) ([]Attrs, error) {
	if t := v.Type(); t.IsObjectType() || t.IsMapType() {
		m, err := a.object(v)
		return []Attrs{m}, err
	}
	if v.Type() != cty.String || !v.IsKnown() {
		return nil, fmt.Errorf("expected a string or an object, got %s", friendlyType(v))
	}
	return a.parse(v.AsString())
}

// object reads an object. The paths of ssh may be a list.
func (a attribute) object(v cty.Value) (Attrs, error) {
	all := Attrs{}
	for name, item := range v.AsValueMap() {
		if item.IsNull() {
			continue
		}
		if list, err := elements(item); a.kind == kindSSH && err == nil && name == "paths" {
			var paths []string
			for _, p := range list {
				s, err := asString(p)
				if err != nil {
					return nil, fmt.Errorf("paths: expected a string, got %s", friendlyType(p))
				}
				paths = append(paths, s)
			}
			all[name] = strings.Join(paths, ",")
			continue
		}
		s, err := asString(item)
		if err != nil {
			return nil, fmt.Errorf("%s: expected a string, got %s", name, friendlyType(item))
		}
		if a.name == "policy" && s == "" {
			continue // not set, as in Docker Bake
		}
		all[name] = s
	}
	return all, nil
}

// parse reads an element that is a string.
func (a attribute) parse(s string) ([]Attrs, error) {
	if s == "" {
		return nil, nil
	}
	if a.kind == kindSSH {
		id, paths, _ := strings.Cut(s, "=")
		return []Attrs{{"id": id, "paths": paths}}, nil
	}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return nil, fmt.Errorf("expected KEY=VALUE,KEY=VALUE, got %q", clip(s))
	}
	if bare := a.bare(s, fields); bare != nil {
		return bare, nil
	}
	all := Attrs{}
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("expected KEY=VALUE, got %q", clip(f))
		}
		if key = a.fieldKey(key); key == "type" {
			value = strings.TrimSpace(value)
		}
		all[key] = value
	}
	return []Attrs{all}, nil
}

// fieldKey returns the normalised key of a KEY=VALUE field. As in Docker Bake, blanks around it count in caches and
// secrets, and the letter case does in attestations.
func (a attribute) fieldKey(key string) string {
	switch a.name {
	case "cache-from", "cache-to", "secret":
		return strings.ToLower(key)
	case "attest":
		if k := strings.ToLower(strings.TrimSpace(key)); k == "type" || k == "disabled" {
			return k
		}
		return key
	}
	return strings.ToLower(strings.TrimSpace(key))
}

// bare reads the short notations: the path of an output and the references of caches. It returns nil if s is not one
// of them.
func (a attribute) bare(s string, fields []string) []Attrs {
	switch a.name {
	case "output":
		if s == "-" {
			return []Attrs{{"type": "tar", "dest": "-"}}
		}
		if len(fields) == 1 && fields[0] == s && !isOutputField(s) {
			return []Attrs{{"type": "local", "dest": s}}
		}
	case "cache-from", "cache-to":
		if strings.Contains(s, "=") {
			return nil
		}
		var all []Attrs
		for _, f := range fields {
			all = append(all, Attrs{"type": "registry", "ref": f})
		}
		return all
	}
	return nil
}

// isOutputField reports whether a string is meant as an attribute of an output and not as the path of a directory.
// Docker Bake takes everything that does not start with "type=" as a path.
func isOutputField(s string) bool {
	key, _, ok := strings.Cut(s, "=")
	switch strings.ToLower(strings.TrimSpace(key)) {
	case "type", "dest", "name", "push", "tar", "compression":
		return ok
	}
	return false
}

// fromAttrs converts KEY=VALUE lists to a value of the attribute's kind.
func (a attribute) fromAttrs(lists []Attrs) (any, error) {
	switch a.kind {
	case kindSecrets:
		all := make([]Secret, 0, len(lists))
		for _, m := range lists {
			s, err := secretOf(m)
			if err != nil {
				return nil, err
			}
			all = append(all, s)
		}
		return all, nil
	case kindSSH:
		all := make([]SSH, 0, len(lists))
		for _, m := range lists {
			s := SSH{ID: m["id"]}
			if s.ID == "" {
				s.ID = "default"
			}
			if m["paths"] != "" {
				s.Paths = strings.Split(m["paths"], ",")
			}
			all = append(all, s)
		}
		return all, nil
	case kindTests:
		return testsOf(lists)
	}
	if a.merge == mergeAppend || a.merge == mergeID {
		lists = a.combine([]Attrs{}, lists).([]Attrs)
	}
	for _, m := range lists {
		if m["type"] == "" && a.name != "policy" {
			return nil, fmt.Errorf("entry has no type; add type=…")
		}
	}
	return lists, nil
}

func secretOf(m Attrs) (Secret, error) {
	s := Secret{ID: m["id"], Src: m["src"], Env: m["env"]}
	if s.Src == "" {
		s.Src = m["source"]
	}
	for key := range m {
		switch key {
		case "id", "src", "source", "env", "type":
		default:
			return s, fmt.Errorf("unknown key %q%s", key, nearest(key, []string{"id", "src", "env", "type"}))
		}
	}
	switch m["type"] {
	case "", "file":
	case "env":
		if s.Env == "" {
			s.Env, s.Src = s.Src, ""
		}
	default:
		return s, fmt.Errorf("unknown secret type %q; use file or env", m["type"])
	}
	if s.ID == "" {
		return s, fmt.Errorf("secret has no id; add id=ID")
	}
	return s, nil
}

// toCty converts the value of an attribute for expressions such as target.NAME.ATTRIBUTE.
func toCty(v any) cty.Value {
	switch v := v.(type) {
	case string:
		return cty.StringVal(v)
	case bool:
		return cty.BoolVal(v)
	case []string:
		return stringList(v)
	case map[string]string:
		return stringMap(v)
	case []Attrs:
		all := make([]cty.Value, len(v))
		for i, m := range v {
			all[i] = stringMap(m)
		}
		return cty.TupleVal(all)
	case []Test:
		return testsToCty(v)
	case []Secret:
		all := make([]cty.Value, len(v))
		for i, s := range v {
			all[i] = stringMap(map[string]string{"id": s.ID, "src": s.Src, "env": s.Env})
		}
		return cty.TupleVal(all)
	case []SSH:
		all := make([]cty.Value, len(v))
		for i, s := range v {
			all[i] = cty.ObjectVal(map[string]cty.Value{"id": cty.StringVal(s.ID), "paths": stringList(s.Paths)})
		}
		return cty.TupleVal(all)
	}
	return cty.NullVal(cty.DynamicPseudoType)
}

func stringList(v []string) cty.Value {
	if len(v) == 0 {
		return cty.ListValEmpty(cty.String)
	}
	all := make([]cty.Value, len(v))
	for i, s := range v {
		all[i] = cty.StringVal(s)
	}
	return cty.ListVal(all)
}

func stringMap(v map[string]string) cty.Value {
	if len(v) == 0 {
		return cty.MapValEmpty(cty.String)
	}
	all := map[string]cty.Value{}
	for key, s := range v {
		all[key] = cty.StringVal(s)
	}
	return cty.MapVal(all)
}
