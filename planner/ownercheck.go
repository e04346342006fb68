package planner

import (
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// RuleUnknownOwner is the rule about users and groups that a stage does not have. The linter cannot apply it, because
// it needs the files of the stage: the engine and --check do.
const RuleUnknownOwner = "UnknownOwner"

// OwnerCheck is what a Dockerfile says about RuleUnknownOwner, in its check directive or BUILDKIT_DOCKERFILE_CHECK.
type OwnerCheck struct {
	Skip bool // do not report
	Fail bool // a finding is an error
}

// ownerCheck returns the check of one target's Dockerfile.
func (f *frontEnd) ownerCheck() OwnerCheck {
	c := f.opt.LinterConfig // of the build argument
	if c == nil {
		text, _, _, _ := parser.ParseDirective("check", f.file.data)
		var err error
		if c, err = linter.ParseLintOptions(text); err != nil {
			return OwnerCheck{} // the frontend reports it
		}
	}
	return OwnerCheck{Skip: c.SkipAll || slices.Contains(c.SkipRules, RuleUnknownOwner), Fail: c.ReturnAsError}
}

// addOwnerCheck records the check of a Dockerfile. If targets with one Dockerfile differ, the strictest counts.
func (g *Graph) addOwnerCheck(file string, c OwnerCheck) {
	if old, ok := g.OwnerChecks[file]; ok {
		c = OwnerCheck{Skip: c.Skip && old.Skip, Fail: c.Fail && !c.Skip || old.Fail && !old.Skip}
	}
	if c == (OwnerCheck{}) {
		delete(g.OwnerChecks, file)
		return
	}
	g.OwnerChecks[file] = c
}

// OwnerCheck returns the check that applies to a step: that of its Dockerfile.
func (g *Graph) OwnerCheck(s *Step) OwnerCheck {
	if len(s.Source) == 0 {
		return OwnerCheck{}
	}
	return g.OwnerChecks[s.Source[0].File]
}
