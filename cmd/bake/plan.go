package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

type planOptions struct {
	project  projectOptions
	lock     lockOptions
	noCache  bool
	pull     bool
	json     bool
	exitCode bool
	allow    []string
}

func newPlanCommand(a *app) *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan [TARGET…]",
		Short: "Say what a build would do, step by step",
		Long: "Plan says of every step whether a build would find it in the cache, run it, or may run it because it stands behind a\n" +
			"COPY --from of something that runs first. It runs nothing.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.project.targets = args
			return a.planCommand(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	o.lock.addFlags(f)
	f.BoolVar(&o.noCache, "no-cache", false, "plan as if the cache held nothing")
	f.BoolVar(&o.pull, "pull", false, "ask the registries for every base now")
	f.StringArrayVar(&o.allow, "allow", nil, "what the project may ask of this machine, as for bake build")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit with 6 when something would or may run")
	return cmd
}

func (a *app) planCommand(ctx context.Context, o planOptions) error {
	project, err := a.loadProject(ctx, o.project)
	if err != nil {
		return err
	}
	if err := a.checkGrants(project, o.allow); err != nil {
		return err
	}
	pins, err := a.usePins(ctx, project.Dir, o.project, o.lock)
	if err != nil {
		return err
	}
	s, err := a.open(o.pull)
	if err != nil {
		return err
	}
	defer s.Close()
	graph, err := s.plan(ctx, project, runOptions{noCache: o.noCache, pins: pins})
	if err != nil {
		return err
	}
	a.noteUnlocked(pins, graph)
	if err := a.checkRules(project, graph); err != nil {
		return err
	}
	dir, err := a.workDir()
	if err != nil {
		return err
	}
	var beside besideWarnings
	steps, err := s.embedded(project).Preview(ctx, graph, executor.Options{NoCache: o.noCache, Dir: dir, Warn: beside.add})
	if err != nil {
		return err
	}
	beside.print(a.stderr)
	printWarnings(a.stderr, graph.Warnings)
	p := newPlanView(graph, steps)
	if o.json {
		err = p.printJSON(a.stdout)
	} else {
		err = p.print(a.stdout)
	}
	if err == nil && o.exitCode && p.Run+p.MayRun > 0 {
		err = differenceError{fmt.Sprintf("%s would run, %d may run", plural(p.Run, "step"), p.MayRun)}
	}
	return err
}

// planView is what `bake plan` shows; its JSON is versioned.
type planView struct {
	Version  int        `json:"version"`
	Declared int        `json:"declared"` // steps of all targets and platforms before merging
	Cached   int        `json:"cached"`
	Run      int        `json:"run"`
	MayRun   int        `json:"mayRun"`
	Steps    []planStep `json:"steps"`
	targets  int
}

type planStep struct {
	Digest  string              `json:"digest"`
	Name    string              `json:"name"`
	Status  executor.StepStatus `json:"status"`
	Reason  string              `json:"reason,omitempty"`
	Source  string              `json:"source,omitempty"` // FILE:LINE
	Targets []string            `json:"targets"`
}

func newPlanView(g *planner.Graph, results []executor.StepResult) planView {
	p := planView{Version: 1, Declared: g.Declared}
	targets := map[string]bool{}
	for i, step := range g.Steps {
		s := planStep{
			Digest: step.Digest.String(), Name: step.Name, Status: results[i].Status,
			Reason: results[i].Reason, Targets: step.Targets,
		}
		if len(step.Source) > 0 {
			s.Source = strings.TrimSuffix(placeOf(step.Source[0]), ": ")
		}
		switch s.Status {
		case executor.StatusWillRun:
			p.Run++
		case executor.StatusMayRun:
			p.MayRun++
		default:
			p.Cached++
		}
		p.Steps = append(p.Steps, s)
	}
	for _, image := range g.Images {
		targets[image.Target] = true
	}
	p.targets = len(targets)
	return p
}

func (p planView) printJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(p)
}

func (p planView) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, s := range p.Steps {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Status, truncate(s.Name, 70), s.Source, namedTargets(s.Targets))
		if s.Reason != "" {
			fmt.Fprintf(t, "\t  %s\n", truncate(s.Reason, 100))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s of %s declared, %d after merging: %d cached, %d will run, %d may run\n",
		plural(p.Declared, "step"), plural(p.targets, "target"), len(p.Steps), p.Cached, p.Run, p.MayRun)
	return err
}

// namedTargets names up to three targets, or places, and counts the rest.
func namedTargets(targets []string) string {
	if len(targets) <= 3 {
		return strings.Join(targets, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(targets[:2], ", "), len(targets)-2)
}
