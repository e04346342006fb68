package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// shareEntitlements adds to each target the entitlements of the targets that it links to, since building it builds
// them. The links must be free of cycles.
func (p *Project) shareEntitlements() {
	done := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		t := p.Targets[name]
		if t == nil || done[name] {
			return
		}
		for _, key := range slices.Sorted(maps.Keys(t.Contexts)) {
			linked, ok := strings.CutPrefix(t.Contexts[key], "target:")
			if !ok || p.Targets[linked] == nil {
				continue
			}
			visit(linked)
			if more := p.Targets[linked].Entitlements; len(more) > 0 {
				t.Entitlements = unique(append(slices.Clone(t.Entitlements), more...))
			}
		}
		done[name] = true
	}
	for name := range p.Targets {
		visit(name)
	}
}

// links returns the sorted names of the targets that a target uses as contexts.
func (l *loader) links(t *Target) ([]string, hcl.Diagnostics) {
	var all []string
	var diags hcl.Diagnostics
	for _, value := range t.Contexts {
		name, ok := strings.CutPrefix(value, "target:")
		if !ok {
			continue
		}
		if _, known := l.defs[name]; !known {
			at := l.attrRange(t.Name, "contexts")
			hint := nearest(name, l.order)
			diags = append(diags, problem(&at, "target %s links to unknown target %q%s", t.Name, name, hint))
			continue
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return all, diags
}

// checkLinks reports targets that link to themselves, directly or not.
func (l *loader) checkLinks(p *Project) hcl.Diagnostics {
	const onPath, done = 1, 2
	state := map[string]int{}
	var diags hcl.Diagnostics
	var visit func(name string, path []string)
	visit = func(name string, path []string) {
		path = append(path, name)
		if state[name] == onPath {
			at := l.attrRange(name, "contexts")
			cycle := strings.Join(path[slices.Index(path, name):], " → ")
			diags = append(diags, problem(&at, "cycle: target %s links to itself (%s)", name, cycle))
			return
		}
		if state[name] == done || p.Targets[name] == nil {
			return
		}
		state[name] = onPath
		linked, _ := l.links(p.Targets[name])
		for _, next := range linked {
			visit(next, path)
		}
		state[name] = done
	}
	for _, name := range p.Requested {
		visit(name, nil)
	}
	return diags
}
