package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/builds"
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
		Use:   "explain [URL [CONTEXT-URL]] [TARGET|STEP…]",
		Short: "Explain why steps would run, or why they ran",
		Long: "List the first causes: the files, arguments, bases and Dockerfile lines that differ from\n" +
			"the most similar earlier run, and the steps that run because of them. Explain what would run\n" +
			"now or, if nothing would, the last build that ran steps.\n\n" +
			aboutBuild + "\n" +
			"STEP is a digest, a place (Dockerfile:12) or a part of a name.",
		Example: "  bake explain api\n  bake explain --build last Dockerfile:12",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.what = args
			return a.explain(cmd.Context(), o)
		},
	}
	o.addFlags(cmd)
	cmd.Flags().StringVar(&o.build, "build", "", "explain the build `BUILD` that ran earlier")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func (a *app) explain(ctx context.Context, o explainOptions) error {
	if o.build != "" {
		return a.explainBuild(o)
	}
	run, what, err := a.previewNamed(ctx, o)
	if err != nil {
		return err
	}
	steps, err := builds.Steps(run, what)
	if err != nil {
		return err
	}
	found := run.Explain(steps)
	if len(found.Roots) == 0 && !o.json {
		return a.explainLast(run, what)
	}
	return a.printExplanation(found, o.json)
}

// previewNamed plans a build of the named targets, or of the whole project if a name is not a target. It returns the
// names with groups expanded.
func (a *app) previewNamed(ctx context.Context, o explainOptions) (report.Run, []string, error) {
	o.project.targets, o.what = splitURLs(o.what)
	opts, err := a.loadOptions(ctx, o.project)
	if err != nil {
		return report.Run{}, nil, err
	}
	names, err := config.Names(ctx, opts)
	if err != nil {
		return report.Run{}, nil, err
	}
	isTarget := func(name string) bool { return name == "default" || slices.Contains(names, name) }
	if slices.ContainsFunc(o.what, func(name string) bool { return !isTarget(name) }) {
		run, err := a.preview(ctx, o.planOptions, a.wholeProject)
		return run, o.what, err
	}
	o.project.targets = slices.Concat(o.project.targets, o.what)
	run, err := a.preview(ctx, o.planOptions, a.loadProject)
	return run, run.Targets, err
}

// explainBuild explains an earlier build.
func (a *app) explainBuild(o explainOptions) error {
	return a.withBuild(o.build, func(_ *cache.Store, run report.Run) error {
		if len(o.what) == 0 {
			o.what = run.Targets
		}
		steps, err := builds.Steps(run, o.what)
		if err != nil {
			return err
		}
		return a.printExplanation(run.Explain(steps), o.json)
	})
}

// explainLast explains the last build in which one of the named steps ran, because none of them would run now.
func (a *app) explainLast(now report.Run, what []string) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	run, found, err := builds.LastExplained(s, now.Dir, what)
	if err != nil {
		return err
	}
	if len(found.Roots) == 0 {
		a.note("no step would run, and no recorded build ran one; nothing to explain")
		return nil
	}
	a.note("no step would run; explaining the last build that ran one: %s, %s",
		run.ID, run.Started.Local().Format("2006-01-02 15:04:05"))
	return a.printExplanation(found, false)
}

func (a *app) printExplanation(e report.Explanation, asJSON bool) error {
	if asJSON {
		return printJSON(a.stdout, e)
	}
	return e.WriteText(a.stdout)
}
