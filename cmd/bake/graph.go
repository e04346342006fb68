package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/planner"
)

// graphOptions are the flags of `bake graph`.
type graphOptions struct {
	project projectOptions
	lock    lockOptions
	format  string
	by      string
	allow   []string
}

func newGraphCommand(a *app) *cobra.Command {
	var o graphOptions
	cmd := &cobra.Command{
		Use:   "graph [URL [CONTEXT-URL]] [TARGET…]",
		Short: "Draw the merged graph of a build",
		Long: "Draw the targets, stages or steps of a build for Graphviz, for Mermaid or as JSON.\n" +
			"Each shared node is drawn once and marked.",
		Example: "  bake graph | dot -Tsvg > graph.svg\n  bake graph --format=mermaid --by=target",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.project.targets = args
			return a.graphCommand(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	o.lock.addFlags(f)
	f.StringArrayVar(&o.allow, "allow", nil, usageAllow)
	f.StringVar(&o.format, "format", "dot", "output format: dot, mermaid or json")
	f.StringVar(&o.by, "by", "stage", "what a node is: target, stage or step")
	return cmd
}

func (a *app) graphCommand(ctx context.Context, o graphOptions) error {
	var write func(planner.Drawing, io.Writer) error
	switch o.format {
	case "dot":
		write = planner.Drawing.WriteDOT
	case "mermaid":
		write = planner.Drawing.WriteMermaid
	case "json":
		write = planner.Drawing.WriteJSON
	default:
		return usagef("--format=%s: expected dot, mermaid or json", o.format)
	}
	o.project.allow = o.allow
	project, err := a.loadProject(ctx, o.project)
	if err != nil {
		return err
	}
	if a.fetcher != nil { // drawing a local project sends nothing anywhere
		if err := a.checkGrants(project, o.allow); err != nil {
			return err
		}
	}
	pins, err := a.usePins(ctx, project.Dir, o.project, o.lock)
	if err != nil {
		return err
	}
	s, err := a.open(false)
	if err != nil {
		return err
	}
	defer s.Close()
	graph, err := s.plan(ctx, project, runOptions{pins: pins})
	if err != nil {
		return err
	}
	same, err := keys.NewFingerprints(s.store.StatIndexDir()).Same(ctx, graph)
	if err != nil {
		same = nil // files are missing: a build says which; the drawing needs none
	}
	drawing, err := graph.Draw(o.by, same)
	if err != nil {
		return usagef("--by: %w", err)
	}
	return write(drawing, a.stdout)
}
