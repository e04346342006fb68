package config

import (
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// variableBlock returns the value of a variable block: from --var, NAME_JSON, the environment, or its default, in this
// order of precedence.
func (s *scope) variableBlock(name string, b *block) (cty.Value, hcl.Diagnostics) {
	want, diags := s.variableType(b)
	if diags.HasErrors() {
		return cty.DynamicVal, diags
	}
	value, diags := s.defaultOf(name, b, want)
	if diags.HasErrors() {
		return cty.DynamicVal, diags
	}
	given, from, asJSON, ok := s.given(name, want != cty.NilType)
	if ok {
		typ := want
		if typ == cty.NilType {
			typ = value.Type()
			asJSON = asJSON && !typ.IsPrimitiveType() // as in Docker Bake, the text itself is the value
		}
		v, err := parseValue(given, typ, asJSON)
		if err != nil {
			return cty.DynamicVal, hcl.Diagnostics{problem(&b.at,
				"variable %s: invalid value %q from %s: %v", name, clip(given), from, err)}
		}
		value = v
	}
	return value, s.validate(name, value, b)
}

// withDefault returns a variable block whose default is an attribute of the same name outside of blocks. As in Docker
// Bake, the type of the block does not count then.
func (b *block) withDefault(a *hcl.Attribute) *block {
	changed := *b
	changed.attrs = maps.Clone(b.attrs)
	delete(changed.attrs, "type")
	changed.attrs["default"] = a
	return &changed
}

// variableType returns the declared type, or NilType if there is no declaration.
func (s *scope) variableType(b *block) (cty.Type, hcl.Diagnostics) {
	a := b.attrs["type"]
	if a == nil {
		return cty.NilType, nil
	}
	typ, _, diags := typeexpr.TypeConstraintWithDefaults(a.Expr)
	return typ, diags
}

// defaultOf returns the default. If a variable has none, it is "" without a declared type, and null with one.
func (s *scope) defaultOf(name string, b *block, want cty.Type) (cty.Value, hcl.Diagnostics) {
	a := b.attrs["default"]
	if a == nil {
		if want == cty.NilType {
			return cty.StringVal(""), nil
		}
		return cty.NullVal(want), nil
	}
	v, diags := s.eval(a.Expr, nil)
	if diags.HasErrors() {
		return v, diags
	}
	if want == cty.NilType {
		if v.IsNull() {
			return cty.NullVal(cty.String), nil
		}
		return v, nil
	}
	converted, err := convert.Convert(v, want)
	if err != nil {
		at := a.Expr.Range()
		typ := want.FriendlyNameForConstraint()
		return v, hcl.Diagnostics{problem(&at, "variable %s has type %s, but its default is %s", name, typ,
			friendlyType(v))}
	}
	return converted, nil
}

// jsonSuffix ends the name of the JSON value of a variable.
const jsonSuffix = "_JSON"

// given returns the value from the command line or the environment, and describes its source. NAME_JSON is used if the
// variable has a type, or if NAME is not set; a variable block named NAME_JSON disables it.
func (s *scope) given(name string, typed bool) (text, from string, asJSON, ok bool) {
	text, from, ok = s.override(name)
	if _, declared := s.variables[name+jsonSuffix]; !declared && (typed || !ok) {
		if v, from, ok := s.override(name + jsonSuffix); ok {
			return v, from, true, true
		}
	}
	return text, from, false, ok
}

// override returns the value of a name from --var or else the environment, and describes its source.
func (s *scope) override(name string) (text, from string, ok bool) {
	if s.vars == nil {
		s.vars = map[string]string{}
		for _, v := range s.opts.Vars {
			key, value, _ := strings.Cut(v, "=")
			s.vars[key] = value
		}
	}
	if value, ok := s.vars[name]; ok {
		return value, "--var " + name, true
	}
	if isTrue(s.opts.Env["BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP"]) {
		return "", "", false
	}
	text, ok = s.opts.Env[name]
	return text, "the environment variable " + name, ok
}

// isTrue reports whether an environment variable is switched on.
func isTrue(s string) bool {
	v, err := strconv.ParseBool(s)
	return err == nil && v
}

// parseValue parses a value from the command line or the environment for a variable of a type.
func parseValue(text string, typ cty.Type, asJSON bool) (cty.Value, error) {
	if asJSON {
		implied := typ
		if typ == cty.DynamicPseudoType {
			t, err := ctyjson.ImpliedType([]byte(text))
			if err != nil {
				return cty.NilVal, fmt.Errorf("not JSON: %w", err)
			}
			implied = t
		}
		return ctyjson.Unmarshal([]byte(text), implied)
	}
	switch {
	case typ == cty.String, typ == cty.DynamicPseudoType:
		return cty.StringVal(text), nil
	case typ == cty.Bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return cty.NilVal, errors.New("expected true or false")
		}
		return cty.BoolVal(v), nil
	case typ == cty.Number:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return cty.NilVal, errors.New("expected a number")
		}
		return number(text)
	case typ.IsListType(), typ.IsSetType(), typ.IsTupleType(), typ.IsMapType():
		return parseCSV(text, typ)
	}
	return cty.NilVal, fmt.Errorf("a value of type %s must be JSON, in the environment variable NAME_JSON",
		typ.FriendlyNameForConstraint())
}

// parseCSV reads a list "a,b" or a map "k:v,k:v".
func parseCSV(text string, typ cty.Type) (cty.Value, error) {
	var fields []string
	if text != "" {
		var err error
		if fields, err = csv.NewReader(strings.NewReader(text)).Read(); err != nil {
			return cty.NilVal, fmt.Errorf("not a list of values: %w", err)
		}
	}
	if typ.IsMapType() {
		object := map[string]cty.Value{}
		for _, f := range fields {
			key, value, ok := strings.Cut(f, ":")
			if !ok {
				return cty.NilVal, fmt.Errorf("expected KEY:VALUE, got %q", f)
			}
			object[key] = cty.StringVal(value)
		}
		return convert.Convert(cty.ObjectVal(object), typ)
	}
	values := make([]cty.Value, len(fields))
	for i, f := range fields {
		values[i] = cty.StringVal(f)
	}
	return convert.Convert(cty.TupleVal(values), typ)
}

// validate checks the validation blocks of a variable.
func (s *scope) validate(name string, value cty.Value, b *block) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, v := range b.blocks {
		condition := v.attrs["condition"] // checkShape has checked that there is one
		result, more := s.eval(condition.Expr, map[string]cty.Value{name: value})
		diags = append(diags, more...)
		if more.HasErrors() {
			continue
		}
		at := condition.Expr.Range()
		ok, err := convert.Convert(result, cty.Bool)
		if err != nil || ok.IsNull() || !ok.IsKnown() {
			diags = append(diags, problem(&at, "condition: expected true or false, got %s", friendlyType(result)))
			continue
		}
		if ok.True() {
			continue
		}
		text := "invalid value"
		if m := v.attrs["error_message"]; m != nil {
			said, more := s.eval(m.Expr, map[string]cty.Value{name: value})
			diags = append(diags, more...)
			if t, err := asString(said); err == nil && !more.HasErrors() {
				text = t
			}
		}
		diags = append(diags, problem(&at, "variable %s: %s", name, text))
	}
	return diags
}
