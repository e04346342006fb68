package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/report"
)

type explainOptions struct {
	planOptions
	what  []string
	build string
	json  bool
}

func newExplainCommand(a *app) *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain [TARGET|STEP…]",
		Short: "Say why steps would run, or why they ran",
		Long: "Explain names the first causes: which files, arguments, bases or lines of a Dockerfile differ from the nearest earlier\n" +
			"run, and what follows from that. It speaks of a build now; where nothing would run, of the last build in which\n" +
			"something did. A step is named by its digest, its place (Dockerfile:12) or a part of its name.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.what = args
			return a.explain(cmd.Context(), o)
		},
	}
	o.addFlags(cmd)
	cmd.Flags().StringVar(&o.build, "build", "", "explain this build of bake builds ls instead; last is the newest")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func (a *app) explain(ctx context.Context, o explainOptions) error {
	if o.build != "" {
		return a.explainBuild(o)
	}
	run, what, err := a.foreseeNamed(ctx, o)
	if err != nil {
		return err
	}
	steps, err := stepsNamed(run, what)
	if err != nil {
		return err
	}
	found := run.Explain(steps)
	if len(found.Roots) == 0 && !o.json {
		return a.explainLast(run, what)
	}
	return a.printExplanation(found, o.json)
}

// foreseeNamed foresees a build of the targets that are named, or of all where steps are. It gives the names with groups
// written out.
func (a *app) foreseeNamed(ctx context.Context, o explainOptions) (report.Run, []string, error) {
	opts, err := a.loadOptions(o.project)
	if err != nil {
		return report.Run{}, nil, err
	}
	rows, err := config.List(ctx, opts, "targets")
	if err != nil {
		return report.Run{}, nil, err
	}
	isTarget := func(name string) bool {
		return name == "default" || slices.ContainsFunc(rows, func(r config.Listed) bool { return r.Name == name })
	}
	if slices.ContainsFunc(o.what, func(name string) bool { return !isTarget(name) }) {
		run, err := a.foresee(ctx, o.planOptions, a.wholeProject)
		return run, o.what, err
	}
	o.project.targets = o.what
	run, err := a.foresee(ctx, o.planOptions, a.loadProject)
	return run, run.Targets, err
}

// stepsNamed are the steps of the targets and the steps that are named, by index.
func stepsNamed(run report.Run, what []string) ([]int, error) {
	steps := []int{}
	for _, name := range what {
		found := run.OfTarget(name)
		if len(found) == 0 {
			found = run.FindSteps(name)
		}
		if len(found) == 0 {
			return nil, usagef("%q is no target, and no step of one has it in its name", name)
		}
		steps = append(steps, found...)
	}
	slices.Sort(steps)
	return slices.Compact(steps), nil
}

// explainBuild explains a build that was.
func (a *app) explainBuild(o explainOptions) error {
	return a.withBuild(o.build, func(_ *cache.Store, run report.Run) error {
		if len(o.what) == 0 {
			o.what = run.Targets
		}
		steps, err := stepsNamed(run, o.what)
		if err != nil {
			return err
		}
		return a.printExplanation(run.Explain(steps), o.json)
	})
}

// explainLast explains the last build in which something of what is named ran, since nothing of it would now.
func (a *app) explainLast(now report.Run, what []string) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	run, found, err := lastRun(s, now.Dir, what)
	if err != nil {
		return err
	}
	if len(found.Roots) == 0 {
		a.note("nothing would run, and no build is known in which it did")
		return nil
	}
	a.note("nothing would run; it ran last in build %s, %s", run.ID, run.Started.Local().Format("2006-01-02 15:04:05"))
	return a.printExplanation(found, false)
}

// lastRun finds the newest build of a project in which something of what is named ran.
func lastRun(s *cache.Store, dir string, what []string) (report.Run, report.Explanation, error) {
	list, err := summaries(s)
	if err != nil {
		return report.Run{}, report.Explanation{}, err
	}
	for _, b := range list {
		if b.Dir != dir || b.Ran+b.Failed == 0 {
			continue
		}
		run, err := readBuild(s, b.ID)
		if err != nil {
			continue
		}
		steps, err := stepsNamed(run, what)
		if err != nil {
			continue // it had other targets
		}
		if found := run.Explain(steps); len(found.Roots) > 0 {
			return run, found, nil
		}
	}
	return report.Run{}, report.Explanation{}, nil
}

func (a *app) printExplanation(e report.Explanation, asJSON bool) error {
	if asJSON {
		return printJSON(a.stdout, e)
	}
	return e.WriteText(a.stdout)
}
