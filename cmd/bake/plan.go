package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/report"
)

// planOptions are the flags of commands that preview a build.
type planOptions struct {
	project projectOptions
	lock    lockOptions
	noCache bool
	pull    bool
	allow   []string
}

func (o *planOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	o.project.addFlags(f)
	o.lock.addFlags(f)
	f.BoolVar(&o.noCache, "no-cache", false, "plan as if the cache and cache mounts were empty")
	f.BoolVar(&o.pull, "pull", false, usagePull)
	f.StringArrayVar(&o.allow, "allow", nil, usageAllow)
}

func newPlanCommand(a *app) *cobra.Command {
	var o planOptions
	var asJSON, exitCode, all bool
	cmd := &cobra.Command{
		Use:   "plan [URL [CONTEXT-URL]] [TARGET…]",
		Short: "Show what a build would do, step by step",
		Long: "Show which steps of each target would be cached, would run, or may run because they copy files\n" +
			"from a step that runs first, why they would run, and the expected time. No step is run.",
		Example: "  bake plan\n  bake plan --exit-code api",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.project.targets = args
			run, err := a.preview(cmd.Context(), o, a.loadProject)
			if err != nil {
				return err
			}
			p := run.Plan()
			if asJSON {
				err = printJSON(a.stdout, p)
			} else {
				err = p.WriteText(a.stdout, all)
			}
			if err == nil && exitCode && p.Run+p.MayRun > 0 {
				err = differenceError{fmt.Sprintf("%s would run, %d may run", plural(p.Run, "step"), p.MayRun)}
			}
			return err
		},
	}
	o.addFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVarP(&all, "all", "a", false, "also list steps that would not run")
	f.BoolVar(&exitCode, "exit-code", false, "exit with 6 if a step would or may run")
	return cmd
}

// preview plans a project that load returns, and returns what a build would do in the form of a recorded run.
func (a *app) preview(
	ctx context.Context, o planOptions, load func(context.Context, projectOptions) (*config.Project, error),
) (report.Run, error) {
	o.project.allow = o.allow
	project, err := load(ctx, o.project)
	if err != nil {
		return report.Run{}, err
	}
	if err := a.checkGrants(project, o.allow); err != nil {
		return report.Run{}, err
	}
	pins, err := a.usePins(ctx, project.Dir, o.project, o.lock)
	if err != nil {
		return report.Run{}, err
	}
	s, err := a.open(o.pull)
	if err != nil {
		return report.Run{}, err
	}
	defer s.Close()
	now := time.Now()
	graph, err := s.plan(ctx, project, runOptions{noCache: o.noCache, pins: pins})
	if err != nil {
		return report.Run{}, err
	}
	a.noteMissing(pins, graph)
	if err := a.checkRules(project, graph); err != nil {
		return report.Run{}, err
	}
	dir, err := a.workDir()
	if err != nil {
		return report.Run{}, err
	}
	var warnings engineWarnings
	opts := executor.Options{NoCache: o.noCache, Dir: dir, Warn: warnings.add}
	steps, err := s.embedded(project).Preview(ctx, graph, opts)
	if err != nil {
		return report.Run{}, err
	}
	warnings.print(a.stderr)
	printWarnings(a.stderr, graph.Warnings)
	return report.New(report.Facts{
		Tool: version(), Engine: embeddedEngine, Dir: project.Dir, Targets: project.Requested,
		Started: now, Completed: time.Now(), Graph: graph, Report: &executor.Report{Steps: steps},
	}), nil
}

// namedTargets lists up to three targets, or two and the number of the others.
func namedTargets(targets []string) string {
	if len(targets) <= 3 {
		return strings.Join(targets, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(targets[:2], ", "), len(targets)-2)
}
