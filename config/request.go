package config

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// request expands the requested names to target names, each once, in the requested order.
func (l *loader) request() ([]string, hcl.Diagnostics) {
	names := l.opts.Targets
	if len(names) == 0 {
		names = []string{"default"}
	}
	var all []string
	var diags hcl.Diagnostics
	for _, name := range names {
		name = strings.ReplaceAll(name, ".", "_")
		found, more := l.expand(name, nil)
		diags = append(diags, more...)
		all = append(all, found...)
		l.requested = append(l.requested, l.requestedNames(name)...)
	}
	return unique(all), diags
}

// requestedNames returns the names for a name or pattern on the command line, with groups kept.
func (l *loader) requestedNames(name string) []string {
	if name == "default" && l.groups[name] != nil {
		members, _ := l.members(name)
		return members
	}
	if _, ok := l.defs[name]; ok || l.groups[name] != nil {
		return []string{name}
	}
	var all []string
	for _, n := range l.allNames() {
		if ok, err := path.Match(name, n); err == nil && ok {
			all = append(all, n)
		}
	}
	return all
}

// expand returns the target names of a name or pattern. parents lists the groups that led to name: a group that is a
// member of itself is an error, unless a target has the same name, which is meant then.
func (l *loader) expand(name string, parents []string) ([]string, hcl.Diagnostics) {
	_, isTarget := l.defs[name]
	if l.groups[name] != nil && !(isTarget && slices.Contains(parents, name)) {
		if i := slices.Index(parents, name); i >= 0 {
			cycle := strings.Join(append(parents[i:], name), " → ")
			return nil, hcl.Diagnostics{problem(l.groups[name].at(), "cycle: group %s contains itself (%s)", name,
				cycle)}
		}
		members, diags := l.members(name)
		var all []string
		for _, m := range members {
			found, more := l.expand(m, append(slices.Clone(parents), name))
			diags = append(diags, more...)
			all = append(all, found...)
		}
		return all, diags
	}
	if isTarget {
		return []string{name}, nil
	}
	if len(parents) == 0 && strings.ContainsAny(name, "*?[") {
		return l.glob(name)
	}
	var at *hcl.Range
	if len(parents) > 0 {
		at = l.groups[parents[len(parents)-1]].at()
	}
	if name == "default" && len(parents) == 0 && len(l.allNames()) == 0 {
		return nil, hcl.Diagnostics{problem(nil,
			"no project file defines a target; a matrix with an empty axis defines none")}
	}
	if name == "default" && len(parents) == 0 {
		return nil, hcl.Diagnostics{problem(nil,
			"no target requested, and no target or group \"default\"; choose from: %s", someOf(l.allNames()))}
	}
	return nil, hcl.Diagnostics{problem(at, "unknown target or group %q%s", name,
		orList(nearest(name, l.allNames()), l.allNames()))}
}

// orList returns the suggestion if there is one, and otherwise lists some of the names.
func orList(suggestion string, all []string) string {
	if suggestion != "" || len(all) == 0 {
		return suggestion
	}
	return "; available: " + someOf(all)
}

// someOf returns up to ten of the names, sorted.
func someOf(all []string) string {
	all = slices.Sorted(slices.Values(all))
	if len(all) > 10 {
		return strings.Join(all[:10], ", ") + fmt.Sprintf(" and %d more", len(all)-10)
	}
	return strings.Join(all, ", ")
}

func (l *loader) glob(pattern string) ([]string, hcl.Diagnostics) {
	var all []string
	var diags hcl.Diagnostics
	for _, name := range slices.Sorted(slices.Values(l.allNames())) {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return nil, hcl.Diagnostics{problem(nil, "invalid pattern %q", pattern)}
		}
		if ok {
			found, more := l.expand(name, nil)
			diags = append(diags, more...)
			all = append(all, found...)
		}
	}
	if len(all) == 0 {
		diags = append(diags, problem(nil, "no target or group matches %q; available: %s", pattern,
			someOf(l.allNames())))
	}
	return all, diags
}

// at returns the position of a group, or nil.
func (g *groupDef) at() *hcl.Range {
	if g == nil || g.block == nil {
		return nil
	}
	if a := g.block.attrs["targets"]; a != nil {
		r := a.Expr.Range()
		return &r
	}
	return &g.block.at
}
