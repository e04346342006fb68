package config

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// request expands what was asked for into target names, each once, in the order asked.
func (l *loader) request() ([]string, hcl.Diagnostics) {
	asked := l.opts.Targets
	if len(asked) == 0 {
		asked = []string{"default"}
	}
	var all []string
	var diags hcl.Diagnostics
	for _, name := range asked {
		name = strings.ReplaceAll(name, ".", "_")
		found, more := l.expand(name, nil)
		diags = append(diags, more...)
		all = append(all, found...)
		l.asked = append(l.asked, l.askedNames(name)...)
	}
	return unique(all), diags
}

// askedNames is what a name on the command line stands for, with groups not expanded.
func (l *loader) askedNames(name string) []string {
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

// expand is a name or pattern as target names. In a group its own name means the target.
func (l *loader) expand(name string, way []string) ([]string, hcl.Diagnostics) {
	_, isTarget := l.defs[name]
	if l.groups[name] != nil && !(isTarget && slices.Contains(way, name)) {
		if slices.Contains(way, name) {
			return nil, hcl.Diagnostics{problem(l.groups[name].at(), "groups hold each other: %s", strings.Join(append(way, name), " → "))}
		}
		members, diags := l.members(name)
		var all []string
		for _, m := range members {
			found, more := l.expand(m, append(slices.Clone(way), name))
			diags = append(diags, more...)
			all = append(all, found...)
		}
		return all, diags
	}
	if isTarget {
		return []string{name}, nil
	}
	if len(way) == 0 && strings.ContainsAny(name, "*?[") {
		return l.glob(name)
	}
	var at *hcl.Range
	if len(way) > 0 {
		at = l.groups[way[len(way)-1]].at()
	}
	if name == "default" && len(way) == 0 && len(l.allNames()) == 0 {
		return nil, hcl.Diagnostics{problem(nil, "no project file has a target: a matrix with an empty axis makes none")}
	}
	if name == "default" && len(way) == 0 {
		return nil, hcl.Diagnostics{problem(nil, "no project file has a target or group \"default\": name what to build (%s)", someOf(l.allNames()))}
	}
	return nil, hcl.Diagnostics{problem(at, "there is no target or group %q%s", name, orList(nearest(name, l.allNames()), l.allNames()))}
}

// orList is the suggestion, or else what there is.
func orList(suggestion string, all []string) string {
	if suggestion != "" || len(all) == 0 {
		return suggestion
	}
	return "; there are " + someOf(all)
}

// someOf lists up to ten names.
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
			return nil, hcl.Diagnostics{problem(nil, "the pattern %q is not valid", pattern)}
		}
		if ok {
			found, more := l.expand(name, nil)
			diags = append(diags, more...)
			all = append(all, found...)
		}
	}
	if len(all) == 0 {
		diags = append(diags, problem(nil, "no target or group matches %q; there are %s", pattern, someOf(l.allNames())))
	}
	return all, diags
}

// at is where a group is written.
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
