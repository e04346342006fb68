package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// checkVars checks each --var. One that sets no variable is an error if a file is strict, and otherwise a warning, as
// for unknown attributes. Compose files declare no variables, so with one of them every name may have a use.
func (l *loader) checkVars() hcl.Diagnostics {
	known := map[string]bool{}
	strict, compose := false, false
	for _, d := range l.docs {
		strict, compose = strict || d.strict, compose || d.services != nil
		for _, b := range d.root.blocks {
			if b.kind == "variable" {
				known[b.label] = true
			}
		}
	}
	var diags hcl.Diagnostics
	for _, v := range l.opts.Vars {
		name, _, ok := strings.Cut(v, "=")
		switch {
		case v == "":
			continue
		case !ok || name == "":
			diags = append(diags, problem(nil, "--var %s: expected NAME=VALUE", v))
			continue
		case compose || known[name] || known[strings.TrimSuffix(name, jsonSuffix)]:
			continue
		}
		d := problem(nil, "--var %s: %s", v, l.undeclared(name, known))
		if !strict {
			d.Severity = hcl.DiagWarning
			l.warnings = append(l.warnings, d)
			continue
		}
		diags = append(diags, d)
	}
	return diags
}

// undeclared says why a --var has no effect.
func (l *loader) undeclared(name string, known map[string]bool) string {
	if name == cmdContext || name == localPlatform {
		return name + " is built in and cannot be set"
	}
	for _, d := range l.docs {
		if d.root.attrs[name] != nil {
			return "\"" + name + "\" is a fixed value; to set it, declare it with variable \"" + name + "\" { … }"
		}
	}
	hint := l.scope.hint(func() string { return nearest(name, slices.Collect(maps.Keys(known))) })
	return "unknown variable \"" + name + "\"" + hint
}
