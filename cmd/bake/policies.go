package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// deniedError lists the policies that deny a build.
type deniedError []planner.Violation

func (e deniedError) Error() string {
	lines := make([]string, len(e))
	for i, v := range e {
		lines[i] = placeOfRange(v.Range) + v.String()
	}
	return strings.Join(lines, "\n")
}

// checkRego returns a planner.RegoError for a target to which policies in Rego apply: those of its policy attribute, or
// the one that BUILDX_DEFAULT_POLICY adds. The planner finds those next to Dockerfiles.
func (a *app) checkRego(p *config.Project) error {
	builtIn, _ := strconv.ParseBool(a.env("BUILDX_DEFAULT_POLICY"))
	for _, name := range slices.Sorted(maps.Keys(p.Targets)) {
		t := p.Targets[name]
		if files, _ := t.RegoPolicies(); len(files) > 0 {
			return &planner.RegoError{Target: name, What: "policy " + files[0]}
		}
		if builtIn && !t.RegoDisabled() {
			return &planner.RegoError{Target: name, What: "the policy that BUILDX_DEFAULT_POLICY adds"}
		}
	}
	return nil
}

// placeOfRange returns the prefix of a message about a place in a project file; "" if the place is unknown.
func placeOfRange(r config.Range) string {
	if r.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", r.File, r.Line)
}

// locate implements planner.Locator with the registries that are configured.
func (a *app) locate(ref string) []string {
	conf, err := registry.LoadConfig(registry.ConfigPaths(a.getenv))
	if err != nil {
		return nil // reported when an image is resolved, which is before
	}
	return conf.With(a.registries).Locations(ref)
}

// checkRules evaluates the project's policies on a plan. It prints those that warn, and returns a deniedError for those
// that deny.
func (a *app) checkRules(p *config.Project, g *planner.Graph) error {
	found, err := g.CheckPolicies(p, a.locate)
	if err != nil {
		return err
	}
	var denied deniedError
	for _, v := range found {
		if v.Warn {
			fmt.Fprintf(a.stderr, "warning: %s%s\n", placeOfRange(v.Range), v)
		} else {
			denied = append(denied, v)
		}
	}
	if len(denied) > 0 {
		return denied
	}
	return nil
}
