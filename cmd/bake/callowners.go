package main

import (
	"context"
	"slices"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// addOwners adds the users and groups that stages do not have to the linter's answers. It looks into stages whose files
// are on this machine, and notes the others: a check pulls no image and runs no step.
func (a *app) addOwners(ctx context.Context, s *session, p *config.Project, answers []planner.Answer) error {
	checked := *p
	checked.Requested = nil
	for _, one := range answers {
		if p.Targets[one.Target].Call == planner.CallLint && one.Failure == "" {
			checked.Requested = append(checked.Requested, one.Target)
		}
	}
	if len(checked.Requested) == 0 {
		return nil
	}
	graph, err := planner.Plan(ctx, &checked, planner.Options{Resolver: s.resolver, Fetcher: s.fetcher})
	if err != nil {
		return ctx.Err() // the linter says what is wrong with a Dockerfile, and a build what else fails
	}
	dir, err := a.workDir()
	if err != nil {
		return err
	}
	found, err := s.engine.UnknownOwners(ctx, graph, executor.Options{Dir: dir})
	if err != nil {
		return err
	}
	for i := range answers {
		var own []planner.Warning
		for _, f := range found.Unknown {
			if slices.Contains(f.Targets, answers[i].Target) {
				own = append(own, planner.Warning{
					Target: answers[i].Target, Rule: planner.RuleUnknownOwner, Message: f.Text, Location: f.At,
					Description: "Users and groups should exist in the stage that uses them",
				})
			}
		}
		if err := answers[i].Add(own); err != nil {
			return err
		}
	}
	if n := len(found.Open); n > 0 {
		a.note("%s%s is not checked, because its stage is not built on this machine (%s in all)",
			placeOf(found.Open[0].At), found.Open[0].Text, plural(n, "name"))
	}
	return nil
}
