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
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/report"
)

func newBuildsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "builds",
		Short: "Look at the last builds",
		Long:  "Builds looks at the last hundred builds, also those that failed or were interrupted.",
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
		Short:   "List the last builds, the newest first",
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
	list, err := summaries(s)
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
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", b.ID, humanAge(now, b.Started), shownLength(b, now), b.Status, shownSteps(b), shownTargets(b))
	}
	return w.Flush()
}

// summaries are those of all builds that are kept. One that cannot be read is left out.
func summaries(s *cache.Store) ([]report.Summary, error) {
	names, err := s.Builds()
	if err != nil {
		return nil, err
	}
	list := []report.Summary{}
	for _, name := range names {
		f, err := s.OpenBuild(name)
		if err != nil {
			continue // another process has just dropped it
		}
		b, err := report.DecodeSummary(f)
		f.Close()
		if b.Status == report.Running && !s.SessionAlive(b.Session) {
			b.Status, b.Session = report.Interrupted, ""
		}
		if err == nil {
			list = append(list, b)
		}
	}
	return list, nil
}

// shownLength is how long a build took or takes, "-" where nobody was there at its end.
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
		Short: "Show one build: what ran, why and how long, and what came of it",
		Long:  "Show shows the last build, or one by its id, or the beginning or the end of it. The JSON is all that is kept of it.",
		Args:  cobra.MaximumNArgs(1),
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
		Short: "Print the whole output of the steps of a build",
		Long: "Logs prints what the steps of the last build printed, or of the one that is named. A step is named by its digest, its\n" +
			"place (Dockerfile:12) or a part of its name.",
		Args: cobra.MaximumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			args = append(args, "", "")
			return a.withBuild(args[0], func(s *cache.Store, run report.Run) error { return printLogs(a.stdout, s, run, args[1]) })
		},
	}
}

// printLogs prints the output of the steps of a build, in the order of the graph.
func printLogs(w io.Writer, s *cache.Store, run report.Run, step string) error {
	steps := run.FindSteps(step)
	if len(steps) == 0 && step != "" {
		return usagef("no step of build %s is named %q (bake builds show %s lists what ran)", run.ID, step, run.ID)
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

// withBuild opens the cache and shows use the build that a text names, as readBuild finds it.
func (a *app) withBuild(what string, use func(*cache.Store, report.Run) error) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	run, err := readBuild(s, what)
	if err != nil {
		return err
	}
	return use(s, run)
}

// readBuild reads the build that a text names: by its id, or the beginning or end of one; the last build by "last", or without a text.
func readBuild(s *cache.Store, what string) (report.Run, error) {
	if what == "last" {
		what = ""
	}
	names, err := s.Builds()
	if err != nil {
		return report.Run{}, err
	}
	if len(names) == 0 {
		return report.Run{}, usagef("there is no build yet")
	}
	var found []string
	for _, name := range names {
		if what == "" || strings.HasPrefix(name, what) || strings.HasSuffix(name, what) {
			found = append(found, name)
		}
	}
	if len(found) == 0 || what != "" && len(found) > 1 {
		return report.Run{}, usagef("%q names %s (bake builds ls lists them)", what, plural(len(found), "build"))
	}
	raw, err := s.Build(found[0])
	if err != nil {
		return report.Run{}, err
	}
	run, err := report.Decode(raw)
	if err != nil {
		return run, fmt.Errorf("build %s: %w", found[0], err)
	}
	if run.Status != report.Running {
		return run, nil
	}
	logs, err := s.SessionLogs(run.Session, run.Started)
	return run.Unfinished(s.SessionAlive(run.Session), logs), err
}

// printJSON prints a value as JSON for people and programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
