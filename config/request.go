package config

import (
	"fmt"
	"maps"
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
	e := l.newExpansion()
	var diags hcl.Diagnostics
	for _, name := range names {
		name = strings.ReplaceAll(name, ".", "_")
		diags = append(diags, e.add(name)...)
		l.requested = append(l.requested, l.requestedNames(name)...)
	}
	return e.targets, diags
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
	for _, n := range l.sortedNames() {
		if ok, err := path.Match(name, n); err != nil || !ok {
			continue
		}
		if n == "default" && l.groups[n] != nil {
			members, _ := l.members(n)
			all = append(all, members...)
			continue
		}
		all = append(all, n)
	}
	return all
}

// expansion collects the targets of names and groups, each once, in the order in which they are first met. A group is
// entered once, however many groups contain it, so that the work is linear in the size of the groups.
type expansion struct {
	l       *loader
	targets []string
	seen    map[string]bool // targets, and groups with the prefix "group "
	groups  namePath        // groups that lead to the current name
}

func (l *loader) newExpansion() *expansion {
	return &expansion{l: l, seen: map[string]bool{}, groups: namePath{at: map[string]int{}}}
}

// expand returns the targets of a name or pattern.
func (l *loader) expand(name string) ([]string, hcl.Diagnostics) {
	e := l.newExpansion()
	diags := e.add(name)
	return e.targets, diags
}

// add adds the targets of a name or pattern. A group that is a member of itself is an error, unless a target has the
// same name, which is meant then.
func (e *expansion) add(name string) hcl.Diagnostics {
	l := e.l
	_, isTarget := l.defs[name]
	if g := l.groups[name]; g != nil && !(isTarget && e.groups.has(name)) {
		if cycle := e.groups.cycle(name); cycle != "" {
			return hcl.Diagnostics{problem(g.at(), "cycle: group %s contains itself (%s)", name, cycle)}
		}
		return e.addGroup(name)
	}
	if isTarget {
		if !e.seen[name] {
			e.seen[name] = true
			e.targets = append(e.targets, name)
		}
		return nil
	}
	if len(e.groups.names) == 0 && strings.ContainsAny(name, "*?[") {
		return e.addMatches(name)
	}
	return e.unknown(name)
}

func (e *expansion) addGroup(name string) hcl.Diagnostics {
	if e.seen["group "+name] {
		return nil
	}
	e.seen["group "+name] = true
	members, diags := e.l.members(name)
	e.groups.push(name)
	defer e.groups.pop()
	for _, m := range members {
		diags = append(diags, e.add(m)...)
	}
	return diags
}

// unknown returns the diagnostic for a name that is neither a target nor a group.
func (e *expansion) unknown(name string) hcl.Diagnostics {
	l := e.l
	var at *hcl.Range
	if n := len(e.groups.names); n > 0 {
		group := e.groups.names[n-1]
		if l.scope.hints < maxShown {
			at = l.memberRange(group, name)
		} else if end := l.groups[group].at(); end != nil { // to find a member means to read the whole list
			at = &hcl.Range{Filename: end.Filename, Start: end.End, End: end.End}
		}
	}
	if name == "default" && at == nil {
		return hcl.Diagnostics{l.nothingRequested()}
	}
	var commands []string
	if at == nil {
		commands = l.opts.Commands
	}
	return hcl.Diagnostics{problem(at, "unknown target or group %q%s", name, l.nearestName(name, commands))}
}

// nothingRequested returns the diagnostic for a command line without names and files without "default".
func (l *loader) nothingRequested() *hcl.Diagnostic {
	if all := l.allNames(); len(all) > 0 {
		return problem(nil, "no target requested, and no target or group \"default\"; choose from: %s", someOf(all))
	}
	for _, d := range l.docs {
		for _, b := range d.root.blocks {
			if m := b.attrs["matrix"]; b.kind == "target" && m != nil {
				at := m.Expr.Range()
				return problem(&at, "the matrix of target %q has no combination, so the project defines no target; "+
					"add a value to each axis", b.label)
			}
		}
	}
	kinds := map[string]int{}
	for _, d := range l.docs {
		for _, b := range d.root.blocks {
			kinds[b.kind]++
		}
	}
	has := "it is empty"
	if len(kinds) > 0 {
		has = "it only has blocks of the kind " + strings.Join(slices.Sorted(maps.Keys(kinds)), ", ")
	}
	return problem(nil, "%s defines no target: %s; add target \"default\" { context = \".\" }, or run bake init "+
		"in a directory without a project file", strings.Join(l.names, ", "), has)
}

// memberRange returns the position of a member of a group, or of all members.
func (l *loader) memberRange(group, member string) *hcl.Range {
	g := l.groups[group]
	if g.block == nil || g.block.attrs["targets"] == nil {
		return g.at()
	}
	members, _ := l.members(group)
	at := l.itemRange(g.block.attrs["targets"].Expr, itemError{index: slices.Index(members, member)})
	return &at
}

// nearestName returns a hint for an unknown name: a similar target, group or command, or else some of them.
func (l *loader) nearestName(name string, commands []string) string {
	return l.scope.hint(func() string {
		all := l.allNames()
		hint := nearest(name, all)
		switch command := Similar(name, slices.Clone(commands)); {
		case command == "":
		case hint == "":
			hint = fmt.Sprintf("; did you mean the command %q?", command)
		default:
			hint = strings.TrimSuffix(hint, "?") + fmt.Sprintf(" or the command %q?", command)
		}
		if hint != "" || len(all) == 0 {
			return hint
		}
		return "; available: " + someOf(all)
	})
}

// nearestTarget returns a hint for an unknown target: a similar one.
func (l *loader) nearestTarget(name string) string {
	return l.scope.hint(func() string { return nearest(name, slices.Clone(l.order)) })
}

// someOf returns up to ten of the names, sorted.
func someOf(all []string) string {
	all = slices.Sorted(slices.Values(all))
	if len(all) > 10 {
		return strings.Join(all[:10], ", ") + fmt.Sprintf(" and %d more", len(all)-10)
	}
	return strings.Join(all, ", ")
}

// addMatches adds the targets of all names that match a pattern.
func (e *expansion) addMatches(pattern string) hcl.Diagnostics {
	var diags hcl.Diagnostics
	found := false
	for _, name := range e.l.sortedNames() {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return hcl.Diagnostics{problem(nil, "invalid pattern %q", pattern)}
		}
		if ok {
			found = true
			diags = append(diags, e.add(name)...)
		}
	}
	if !found {
		diags = append(diags, problem(nil, "no target or group matches %q; available: %s", pattern,
			someOf(e.l.allNames())))
	}
	return diags
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
