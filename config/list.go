package config

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// ListedTarget is a target or a group in the output of --list. Its JSON is that of Docker Bake.
type ListedTarget struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"` // of a group, with its members
	Group       bool   `json:"group,omitempty"`
}

// ListedVariable is a variable in the output of --list. Its JSON is that of Docker Bake.
type ListedVariable struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Type        string  `json:"type,omitempty"`  // if it is declared
	Value       *string `json:"value,omitempty"` // JSON if it is a list or an object; nil for null
}

// TargetNames returns the names of all targets, in the written order.
func TargetNames(ctx context.Context, opts Options) ([]string, error) {
	return runBounded(ctx, opts, func(l *loader) ([]string, hcl.Diagnostics) { return l.order, nil })
}

// Names returns the names of all targets and groups, in no order.
func Names(ctx context.Context, opts Options) ([]string, error) {
	return runBounded(ctx, opts, func(l *loader) ([]string, hcl.Diagnostics) { return l.allNames(), nil })
}

// IsPrivate reports whether the name of a target or group marks it as internal to the project files.
func IsPrivate(name string) bool { return strings.HasPrefix(name, "_") }

// ListTargets returns the targets and groups, sorted by name. Names that start with an underscore are private to the
// project files and omitted. Parents are not evaluated, so that a missing one does not hide the rest.
func ListTargets(ctx context.Context, opts Options) ([]ListedTarget, error) {
	return runBounded(ctx, opts, func(l *loader) ([]ListedTarget, hcl.Diagnostics) {
		all := []ListedTarget{}
		for _, name := range l.order {
			v, diags := l.own(name, l.schema["description"], name)
			if diags.HasErrors() {
				return nil, diags
			}
			text, _ := v.value.(string)
			all = append(all, ListedTarget{Name: name, Description: text})
		}
		for name := range l.groups {
			members, diags := l.members(name)
			if diags.HasErrors() {
				return nil, diags
			}
			text := described(l.groupDescription(name), members)
			all = append(all, ListedTarget{Name: name, Group: true, Description: text})
		}
		all = slices.DeleteFunc(all, func(t ListedTarget) bool { return IsPrivate(t.Name) })
		slices.SortStableFunc(all, func(a, b ListedTarget) int { return strings.Compare(a.Name, b.Name) })
		return all, nil
	})
}

// described adds the members of a group to its description.
func described(text string, members []string) string {
	names := strings.Join(slices.Sorted(slices.Values(members)), ", ")
	switch {
	case names == "":
		return text
	case text == "":
		return names
	}
	return text + " (" + names + ")"
}

// ListVariables returns the variables, sorted by name.
func ListVariables(ctx context.Context, opts Options) ([]ListedVariable, error) {
	return runBounded(ctx, opts, func(l *loader) ([]ListedVariable, hcl.Diagnostics) {
		all := []ListedVariable{}
		for name, b := range l.scope.variables {
			if name == cmdContext || name == localPlatform {
				continue
			}
			one := ListedVariable{Name: name}
			one.Description, _, _ = l.scope.text(b, "description")
			typ, diags := l.scope.variableType(b)
			if diags.HasErrors() {
				return nil, diags
			}
			if l.scope.globals[name] != nil {
				typ = cty.NilType // see block.withDefault
			}
			if typ != cty.NilType {
				one.Type = typ.FriendlyNameForConstraint()
			}
			v, diags := l.scope.variable(name, &b.at)
			if diags.HasErrors() {
				return nil, diags
			}
			one.Value = listedValue(v, typ)
			all = append(all, one)
		}
		slices.SortFunc(all, func(a, b ListedVariable) int { return strings.Compare(a.Name, b.Name) })
		return all, nil
	})
}

// listedValue returns the text of a value of a type, which is NilType if none is declared. The text of a declared type
// is its JSON, without the quotes of a string.
func listedValue(v cty.Value, typ cty.Type) *string {
	if v.IsNull() {
		return nil
	}
	text := ""
	if typ == cty.NilType && v.Type().IsPrimitiveType() {
		if s, err := convert.Convert(v, cty.String); err == nil {
			text = s.AsString()
		}
		return &text
	}
	as := typ
	if as == cty.NilType {
		as = v.Type()
	}
	if raw, err := ctyjson.Marshal(v, as); err == nil {
		text = string(raw)
	}
	if typ == cty.String {
		text = strings.Trim(text, `"`)
	}
	return &text
}
