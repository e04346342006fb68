package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/builds"
	"github.com/bakebuild/bake/planner"
)

// buildOptions are the flags of `bake build`; they mean the same as in Docker Bake.
type buildOptions struct {
	project projectOptions
	run     runOptions
	lock    lockOptions
	print   bool
	list    string
	call    string
	check   bool
	watch   bool
}

func newBuildCommand(a *app) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build [URL [CONTEXT-URL]] [TARGET…]",
		Short: "Build the targets of a project file",
		Long: "Build the named targets and groups, or \"default\". Store the images in the local store,\n" +
			"or write them to the outputs of their targets. Tags move only after every target has succeeded.\n\n" +
			"URL is a git repository, an archive or a file from which the project is read.\n" +
			"CONTEXT-URL sets BAKE_CMD_CONTEXT.",
		Example: "  bake build\n  bake build --push --set api.tags=registry.example.com/api:1.2 api",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.project.targets = args
			return a.build(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	o.run.addFlags(f)
	o.lock.addFlags(f)
	f.BoolVar(&o.print, "print", false, "print the evaluated targets as JSON, and build nothing")
	f.BoolVar(&o.watch, "watch", false, "rebuild the affected targets whenever a file is saved, until Ctrl-C")
	f.StringVar(&o.list, "list", "", "list targets or variables, and build nothing; for JSON: type=targets,format=json")
	f.BoolVar(&o.check, "check", false, "check the Dockerfiles, and build nothing; shorthand for --call=check")
	f.StringVar(&o.call, "call", "build",
		"how to evaluate the build: build, check, outline or targets; append ,format=json or ,ignorestatus=true")
	return cmd
}

// build loads the project, builds it, and prints the answers of targets with another --call.
func (a *app) build(ctx context.Context, o buildOptions) error {
	o.project.allow = o.run.allow
	if o.list != "" {
		return a.list(ctx, o.project, o.list)
	}
	if o.watch {
		return a.watch(ctx, o)
	}
	call, err := parseCall(o.call, o.check)
	if err != nil {
		return err
	}
	o.project.set = slices.Concat(o.project.set, call.overrides(), o.run.overrides())
	project, err := a.loadProject(ctx, o.project)
	if err != nil {
		return err
	}
	if o.print {
		return a.printProject(project)
	}
	if err := a.checkProject(project, o.run); err != nil {
		return err
	}
	if o.run.pins, err = a.usePins(ctx, project.Dir, o.project, o.lock); err != nil {
		return err
	}
	built, called := splitCalls(project)
	if len(built.Requested) > 0 {
		if err := a.buildProject(ctx, built, o.run); err != nil {
			return err
		}
	}
	if len(called.Requested) > 0 {
		return a.callProject(ctx, called, call, o.run)
	}
	return nil
}

// checkProject returns an error if the project needs more access than the user allows, or has policies in Rego.
func (a *app) checkProject(p *config.Project, o runOptions) error {
	if err := a.checkGrants(p, o.allow); err != nil {
		return err
	}
	return a.checkRego(p)
}

// buildProject plans and runs a project, and records the build. `bake build` and `bake image build` call it.
func (a *app) buildProject(ctx context.Context, p *config.Project, o runOptions) error {
	builders, err := a.builders(p, o.engine)
	if err != nil {
		return err
	}
	a.noteLatest(p)
	if a.offline && len(builders) > 0 {
		return usagef("--offline cannot be combined with a BuildKit daemon, which pulls base images itself; " +
			"use --engine embedded instead")
	}
	if o.verify && len(builders) > 0 {
		return usagef("--verify-cache cannot be combined with a BuildKit daemon, which has its own cache; " +
			"use --engine embedded instead")
	}
	if o.terminal, err = a.debugTerminal(builders, o); err != nil {
		return err
	}
	s, err := a.open(o.pull)
	if err != nil {
		return err
	}
	defer s.Close()
	limits, err := a.cacheLimits(s.store.Dir())
	if err != nil {
		return err
	}
	defer func() { s.collect(ctx, limits) }()
	engine, err := s.runner(p, builders)
	if err != nil {
		return err
	}
	r := s.record(p, builders)
	err = a.buildRecorded(ctx, s, engine, p, o, r)
	s.store.MeasureFreeable(err)
	run := r.Finish(err, isInterrupted(ctx, err))
	a.summarizeForCI(run)
	a.exportSpans(ctx, run)
	if o.explain {
		if explainErr := run.Explain(run.All()).WriteText(a.stderr); err == nil {
			err = explainErr
		}
	}
	if r.Facts.Report == nil {
		return err
	}
	if fileErr := o.writeTrace(run); err == nil {
		err = fileErr
	}
	return err
}

// buildRecorded plans and runs a project. It adds the graph and the report to the recording.
func (a *app) buildRecorded(
	ctx context.Context, s *session, engine executor.Engine, p *config.Project, o runOptions, r *builds.Recording,
) error {
	if err := s.keepPins(p, o.pins); err != nil {
		return err
	}
	graph, unplanned := s.plan(ctx, p, o)
	if graph == nil {
		return unplanned
	}
	r.Facts.Graph = graph
	a.showWarnings(o, graph.Warnings)
	a.noteMissing(o.pins, graph)
	if err := a.checkRules(p, graph); err != nil {
		return err
	}
	if err := a.checkDaemonSources(ctx, engine, graph); err != nil {
		return err
	}
	done, err := a.runGraph(ctx, engine, graph, p.Dir, o, r)
	r.Facts.Report = done
	if done != nil {
		if fileErr := o.writeMetadata(graph, done, err); err == nil {
			err = fileErr
		}
	}
	if err == nil || done != nil && len(done.Images) > 0 {
		a.summarize(done)
	}
	if err == nil && o.verify {
		err = a.printVerified(graph, done)
	}
	return joinFailures(unplanned, err)
}

// joinFailures joins the errors that are not nil: nil for none, the error itself for one, else *executor.Failures.
func joinFailures(all ...error) error {
	return executor.Failed(slices.DeleteFunc(all, func(e error) bool { return e == nil }))
}

// runGraph runs the graph with progress on stderr.
func (a *app) runGraph(
	ctx context.Context, engine executor.Engine, g *planner.Graph, project string, o runOptions, r *builds.Recording,
) (*executor.Report, error) {
	display, err := startProgress(ctx, a.stderr, o.progressMode(a), g)
	if err != nil {
		return nil, err
	}
	dir, err := a.workDir()
	if err != nil {
		return nil, err
	}
	events := func(e executor.Event) {
		r.Event(e)
		display.Event(e)
	}
	var warnings engineWarnings
	defer warnings.print(a.stderr)
	opts := executor.Options{
		Jobs: o.jobs.parallel, KeepGoing: o.jobs.keepGoing, NoCache: o.noCache, Verify: o.verify, Allow: o.allow,
		Events: events, Dir: dir, Stdout: a.stdout, Project: project, Warn: warnings.add,
	}
	if o.terminal != nil {
		opts.Debug = a.debug(o.terminal, display)
	}
	done, err := engine.Run(ctx, g, opts)
	if closeErr := display.Close(); err == nil {
		err = closeErr
	}
	return done, err
}
