package planner

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bakebuild/bake/config"
)

const targetPrefix = "target:"

// order returns the requested targets and all targets that they link to, sorted so that linked targets come first. A
// cycle of links is an error.
func (p *plan) order() ([]*config.Target, error) {
	var out []*config.Target
	const visiting, done = 1, 2
	state := map[string]int{}
	var path []string
	var visit func(name string, user *config.Target) error
	visit = func(name string, user *config.Target) error {
		t, ok := p.project.Targets[name]
		switch {
		case !ok && user == nil:
			return fmt.Errorf("target %s is not in the project", name)
		case !ok:
			return p.targetError(user, "contexts", fmt.Errorf("linked target %s is not in the project", name))
		case state[name] == done:
			return nil
		case state[name] == visiting:
			cycle := append(path[slices.Index(path, name):], name)
			return p.targetError(user, "contexts", fmt.Errorf("targets link to each other in a cycle: %s",
				strings.Join(cycle, " -> ")))
		}
		state[name] = visiting
		path = append(path, name)
		for _, link := range linksOf(t) {
			if err := visit(link, t); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		state[name] = done
		out = append(out, t)
		return nil
	}
	for _, name := range p.project.Requested {
		if err := visit(name, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// linksOf returns the targets that a target uses as named contexts, sorted by context name.
func linksOf(t *config.Target) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		if link, ok := strings.CutPrefix(t.Contexts[name], targetPrefix); ok {
			out = append(out, link)
		}
	}
	return out
}

// targetError returns a DockerfileError located at an attribute of a target, or at the target itself.
func (p *plan) targetError(t *config.Target, attribute string, err error) error {
	at := t.Ranges[attribute]
	if at.File == "" {
		at = t.Ranges[""]
	}
	return &DockerfileError{Target: t.Name, File: at.File, Line: at.Line, Err: err}
}
