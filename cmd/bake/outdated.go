package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
	"github.com/bakebuild/bake/planner/pins"
)

type outdatedOptions struct {
	project  projectOptions
	format   string
	exitCode bool
}

func newOutdatedCommand(a *app) *cobra.Command {
	var o outdatedOptions
	cmd := &cobra.Command{
		Use:   "outdated",
		Short: "List outdated pins, newer tags, and bases that targets use in different versions",
		Long: "List the pins whose reference now resolves to a different digest or commit, and newer version tags.\n" +
			"Under Drift, list images that targets use by several tags, digests or repositories.",
		Example: "  bake outdated\n  bake outdated --exit-code",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.outdatedCommand(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.StringVar(&o.format, "format", "text", "output format: text, json (all pins) or markdown")
	f.BoolVar(&o.exitCode, "exit-code", false,
		"exit with 6 if a tag no longer matches its pin; newer tags and drift do not count")
	return cmd
}

// outdatedView is the output of bake outdated. Its JSON format is version 1.
type outdatedView struct {
	Version int             `json:"version"`
	Pins    []pins.Status   `json:"pins"`
	Drift   []planner.Drift `json:"drift"`
	now     time.Time
}

func (a *app) outdatedCommand(ctx context.Context, o outdatedOptions) error {
	if err := checkFormat(o.format); err != nil {
		return err
	}
	p, err := a.planLock(ctx, o.project, lockChange{})
	if err != nil {
		return err
	}
	defer p.Close()
	a.noteMissing(pins.Lock{File: p.Lock}, p.Graph)
	v := outdatedView{Version: 1, Pins: p.Outdated(ctx), Drift: p.Graph.Drift(), now: time.Now()}
	var failures []error
	moved := 0
	for _, pin := range v.Pins {
		failures = append(failures, pin.Err)
		if pin.Moved {
			moved++
		}
	}
	if err := v.print(a.stdout, o.format); err != nil {
		return err
	}
	failure := joinFailures(failures...)
	if failure == nil && moved > 0 && o.exitCode {
		return differenceError{plural(moved, "pin") + " out of date; to move them: bake update"}
	}
	if failure == nil {
		fmt.Fprintf(a.stderr, "%s: %s, %d out of date\n", config.LockName, plural(len(v.Pins), "pin"), moved)
	}
	return failure
}

func (v outdatedView) print(w io.Writer, format string) error {
	if format == "json" {
		v.Drift = append([]planner.Drift{}, v.Drift...)
		return printIndented(w, v)
	}
	v.Pins = slices.DeleteFunc(v.Pins, func(p pins.Status) bool {
		return !p.Moved && p.Current != "" && len(p.Newer) == 0
	})
	if format == "markdown" {
		return v.printMarkdown(w)
	}
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	if len(v.Pins) > 0 {
		fmt.Fprintln(t, "REFERENCE\tLOCKED\tCURRENT\tAGE\tNEWER TAGS\tUSED BY")
	}
	for _, p := range v.Pins {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n",
			shownName(p.Ref), shortPin(p.Locked), currentText(p), ageText(v.now, p), newerText(p),
			namedTargets(p.UsedBy))
	}
	if err := t.Flush(); err != nil || len(v.Drift) == 0 {
		return err
	}
	if len(v.Pins) > 0 {
		fmt.Fprintln(w)
	}
	return v.printDrift(w, t)
}

func (v outdatedView) printDrift(w io.Writer, t *tabwriter.Writer) error {
	fmt.Fprintln(w, "Drift")
	for _, d := range v.Drift {
		fmt.Fprintln(t, shownNames(d.Repository))
		for _, u := range d.Uses {
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n",
				shownName(u.Ref), shortPin(u.Digest.String()), pinnedText(u),
				namedTargets(u.Targets), namedPlaces(u.Places))
		}
		for _, note := range d.Notes {
			fmt.Fprintf(t, "  %s\n", note)
		}
	}
	return t.Flush()
}

func (v outdatedView) printMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("| Reference | Locked | Current | Age | Newer tags | Used by |\n|---|---|---|---|---|---|\n")
	for _, p := range v.Pins {
		fmt.Fprintf(&b, "| `%s` | `%s` | `%s` | %s | %s | %s |\n",
			shownName(p.Ref), shortPin(p.Locked), currentText(p), ageText(v.now, p), newerText(p),
			namedTargets(p.UsedBy))
	}
	if len(v.Drift) > 0 {
		b.WriteString("\n### Drift\n\n| Repository | Reference | Digest | Pinned | Used by | Where |\n" +
			"|---|---|---|---|---|---|\n")
	}
	for _, d := range v.Drift {
		for _, u := range d.Uses {
			fmt.Fprintf(&b, "| `%s` | `%s` | `%s` | %s | %s | %s |\n",
				shownNames(d.Repository), shownName(u.Ref), shortPin(u.Digest.String()), pinnedText(u),
				namedTargets(u.Targets), namedPlaces(u.Places))
		}
		for _, note := range d.Notes {
			fmt.Fprintf(&b, "| | %s | | | | |\n", note)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func currentText(p pins.Status) string {
	switch {
	case p.Current == "":
		return "?"
	case !p.Moved:
		return "same"
	}
	return shortPin(p.Current)
}

func ageText(now time.Time, p pins.Status) string {
	if p.Created == nil {
		return "-"
	}
	return humanAge(now, *p.Created)
}

// newerText returns the newest three tags and the number of the others.
func newerText(p pins.Status) string {
	if len(p.Newer) == 0 {
		return "-"
	}
	shown := strings.Join(p.Newer[:min(3, len(p.Newer))], ", ")
	if rest := len(p.Newer) - 3; rest > 0 {
		shown += fmt.Sprintf(" and %d more", rest)
	}
	return shown
}

// namedPlaces is namedTargets for FILE:LINE. File names may contain any character, so they are made safe to show.
func namedPlaces(places []string) string {
	safe := make([]string, len(places))
	for i, p := range places {
		safe[i] = oneLine(p)
	}
	return namedTargets(safe)
}

// pinnedText returns how a use of an image is pinned.
func pinnedText(u planner.DriftUse) string {
	switch u.Pinned {
	case "no":
		return "floating"
	case "lock":
		return "locked"
	}
	return "written"
}

// shownNames is shownName for a list separated by commas.
func shownNames(names string) string {
	all := strings.Split(names, ", ")
	for i := range all {
		all[i] = shownName(all[i])
	}
	return strings.Join(all, ", ")
}
