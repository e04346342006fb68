package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
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
			hint := l.nearestTarget(name)
			diags = append(diags, problem(&at, "target %s links to unknown target %q%s", t.Name, name, hint))
			continue
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return all, diags
}

// checkLinkedPlatforms reports that a target of several platforms links to one that is not built for all of them. A
// target of one platform, or of none, is used for every platform.
func (l *loader) checkLinkedPlatforms(t, linked *Target) hcl.Diagnostics {
	want, have := platformsOf(t.Platforms), platformsOf(linked.Platforms)
	if len(want) < 2 || len(have) < 2 {
		return nil
	}
	missing := slices.DeleteFunc(want, func(p string) bool { return slices.Contains(have, p) })
	if len(missing) == 0 {
		return nil
	}
	at := l.attrRange(t.Name, "contexts")
	return hcl.Diagnostics{problem(&at, "target %s links to target %s, which is not built for %s; add it to the "+
		"platforms of %s", t.Name, linked.Name, strings.Join(missing, ", "), linked.Name)}
}

// platformsOf returns platforms in their normalised form, one by one. An element may list several.
func platformsOf(list []string) []string {
	var all []string
	for _, s := range list {
		for one := range strings.SplitSeq(s, ",") {
			if p, err := platforms.Parse(one); err == nil {
				one = platforms.FormatAll(platforms.Normalize(p))
			}
			all = append(all, one)
		}
	}
	return all
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
			if other := p.Targets[next]; other != nil {
				diags = append(diags, l.checkLinkedPlatforms(p.Targets[name], other)...)
			}
		}
		state[name] = done
	}
	for _, name := range p.Requested {
		visit(name, nil)
	}
	return diags
}
