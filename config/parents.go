package config

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// checkParents reports a target that inherits from itself, directly or not.
func (l *loader) checkParents(name string) hcl.Diagnostics {
	return l.checkPath(name, &namePath{at: map[string]int{}})
}

func (l *loader) checkPath(name string, path *namePath) hcl.Diagnostics {
	parents, diags := l.parents(name)
	if diags.HasErrors() || l.acyclic[name] {
		return diags
	}
	if cycle := path.cycle(name); cycle != "" {
		v, _ := l.value(name, l.schema["inherits"], nil)
		return hcl.Diagnostics{problem(&v.at, "cycle: target %s inherits from itself (%s)", name, cycle)}
	}
	path.push(name)
	defer path.pop()
	for _, p := range parents {
		if diags := l.checkPath(p, path); diags.HasErrors() {
			return diags
		}
	}
	l.acyclic[name] = true
	return nil
}

// namePath is a path in a graph of names. A lookup takes the same time whatever its length.
type namePath struct {
	names []string
	at    map[string]int // position of each name
}

func (p *namePath) push(name string) {
	p.at[name] = len(p.names)
	p.names = append(p.names, name)
}

func (p *namePath) pop() {
	delete(p.at, p.names[len(p.names)-1])
	p.names = p.names[:len(p.names)-1]
}

// has reports whether a name is on the path.
func (p *namePath) has(name string) bool {
	_, ok := p.at[name]
	return ok
}

// cycle describes the cycle that name closes, or returns "" if it closes none.
func (p *namePath) cycle(name string) string {
	if !p.has(name) {
		return ""
	}
	return strings.Join(append(slices.Clone(p.names[p.at[name]:]), name), " → ")
}
