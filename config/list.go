package config

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Listed is one entry of --list: a target, a group, or a variable.
type Listed struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Targets     string `json:"targets,omitempty"` // of a group
	Value       string `json:"value,omitempty"`   // of a variable
	Type        string `json:"type,omitempty"`    // of a variable, when it is declared
}

// List returns the "targets", including groups, or the "variables", sorted by name. Names that start with an
// underscore are private to the project files and omitted.
func List(ctx context.Context, opts Options, what string) ([]Listed, error) {
	return runBounded(ctx, opts, func(l *loader) ([]Listed, hcl.Diagnostics) {
		switch what {
		case "targets":
			return l.listTargets()
		case "variables":
			return l.listVariables()
		}
		return nil, hcl.Diagnostics{problem(nil, "--list=%s: expected targets or variables", what)}
	})
}

func (l *loader) listTargets() ([]Listed, hcl.Diagnostics) {
	var all []Listed
	for _, name := range slices.Sorted(slices.Values(l.allNames())) {
		if strings.HasPrefix(name, "_") {
			continue
		}
		one := Listed{Name: name}
		if l.groups[name] != nil {
			members, diags := l.members(name)
			if diags.HasErrors() {
				return nil, diags
			}
			one.Targets, one.Description = strings.Join(members, ", "), l.groupDescription(name)
		} else {
			v, diags := l.value(name, l.schema["description"], nil)
			if diags.HasErrors() {
				return nil, diags
			}
			one.Description, _ = v.value.(string)
		}
		all = append(all, one)
	}
	return all, nil
}

func (l *loader) listVariables() ([]Listed, hcl.Diagnostics) {
	var all []Listed
	names := make([]string, 0, len(l.scope.variables))
	for name := range l.scope.variables {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasPrefix(name, "_") {
			continue
		}
		b := l.scope.variables[name]
		one := Listed{Name: name}
		one.Description, _, _ = l.scope.text(b, "description")
		if typ, diags := l.scope.variableType(b); !diags.HasErrors() && b.attrs["type"] != nil {
			one.Type = typ.FriendlyNameForConstraint()
		}
		if v, diags := l.scope.variable(name, &b.at); !diags.HasErrors() && !v.IsNull() {
			if s, err := asString(v); err == nil {
				one.Value = s
			} else {
				one.Value = fmt.Sprintf("(%s)", friendlyType(v))
			}
		}
		all = append(all, one)
	}
	return all, nil
}
