package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/builds"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/report"
)

// Help for the argument BUILD, as builds.Read reads it.
const (
	aboutBuild   = "BUILD is an id from bake builds ls, the start or end of one, or last."
	defaultBuild = " The default is last."
)

func newBuildsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "builds",
		Short: "Inspect recent builds",
		Long:  "List and show the last hundred builds, including failed and interrupted ones.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBuildsListCommand(a), newBuildsShowCommand(a), newBuildsLogsCommand(a))
	return cmd
}

type buildsListOptions struct {
	json  bool
	quiet bool
}

func newBuildsListCommand(a *app) *cobra.Command {
	var o buildsListOptions
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List recent builds, newest first",
		Example: "  bake builds ls\n  bake builds ls --json",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.listBuilds(o) },
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print ids only")
	return cmd
}

func (a *app) listBuilds(o buildsListOptions) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	list, err := builds.List(s)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(a.stdout, struct {
			Version int              `json:"version"`
			Builds  []report.Summary `json:"builds"`
		}{1, list})
	}
	if o.quiet {
		for _, b := range list {
			fmt.Fprintln(a.stdout, b.ID)
		}
		return nil
	}
	now := time.Now()
	w := tabwriter.NewWriter(a.stdout, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "BUILD\tSTARTED\tTOOK\tSTATUS\tSTEPS\tTARGETS")
	for _, b := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n",
			b.ID, humanAge(now, b.Started), shownLength(b, now), b.Status, shownSteps(b), shownTargets(b))
	}
	return w.Flush()
}

// shownLength returns how long a build took or has taken so far, "-" if its end was not recorded.
func shownLength(b report.Summary, now time.Time) string {
	switch {
	case b.Status == report.Running:
		return report.FormatDuration(now.Sub(b.Started))
	case !b.Completed.After(b.Started):
		return "-"
	}
	return report.FormatDuration(b.Completed.Sub(b.Started))
}

func shownSteps(b report.Summary) string {
	if b.Ran+b.Cached+b.Failed == 0 {
		return "-"
	}
	text := fmt.Sprintf("%d ran, %d cached", b.Ran, b.Cached)
	if b.Failed > 0 {
		text += fmt.Sprintf(", %d failed", b.Failed)
	}
	return text
}

func shownTargets(b report.Summary) string {
	more := b.More
	if n := len(b.Targets); n > 3 {
		b.Targets, more = b.Targets[:2], more+n-2
	}
	text := strings.Join(b.Targets, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func newBuildsShowCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show [BUILD]",
		Short: "Show a build: its steps, their reasons and times, and its results",
		Long: "Show the steps of a build with their reasons and times, and its results.\n" +
			"With --json, print the complete record.\n\n" + aboutBuild + defaultBuild,
		Example: "  bake builds show\n  bake builds show 7e6oz3 --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.withBuild(append(args, "")[0], func(_ *cache.Store, run report.Run) error {
				if asJSON {
					return printJSON(a.stdout, run)
				}
				return run.WriteText(a.stdout)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newBuildsLogsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "logs [BUILD [STEP]]",
		Short: "Print the output of a build's steps",
		Long: "Print the complete output of the steps of a build.\n\n" + aboutBuild + defaultBuild + "\n" +
			"STEP is a digest, a place (Dockerfile:12) or a part of a name.",
		Example: "  bake builds logs\n  bake builds logs 7e6oz3 Dockerfile:12",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			args = append(args, "", "")
			return a.withBuild(args[0], func(s *cache.Store, run report.Run) error {
				return printLogs(a.stdout, s, run, args[1])
			})
		},
	}
}

// printLogs prints the output of the steps of a build, in the order of the graph.
func printLogs(w io.Writer, s *cache.Store, run report.Run, step string) error {
	steps := run.FindSteps(step)
	if len(steps) == 0 && step != "" {
		return usagef("no step of the build matches %q; list its steps with bake builds show %s", step, run.ID)
	}
	for _, i := range steps {
		one := run.Steps[i]
		if one.Log == "" {
			continue
		}
		if step == "" || len(steps) > 1 {
			fmt.Fprintf(w, "==> %s %s\n", one.Name, executor.Place(one.Source))
		}
		if err := copyLog(w, s, one.Log); err != nil {
			return err
		}
	}
	return nil
}

func copyLog(w io.Writer, s *cache.Store, name string) error {
	f, err := s.OpenLog(name)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = fmt.Fprintln(w, "[this log was removed from the cache]")
		return err
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// withBuild opens the cache and calls use with the build that builds.Read finds.
func (a *app) withBuild(name string, use func(*cache.Store, report.Run) error) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	run, err := builds.Read(s, name)
	if err != nil {
		return err
	}
	return use(s, run)
}

// printJSON prints a value as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
