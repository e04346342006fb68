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
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
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
		Short: "List the pins whose tags name something else now or have newer ones, and where targets drift apart",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.outdatedCommand(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.StringVar(&o.format, "format", "text", "text, json (all pins) or markdown")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit with 6 when a tag names something else than its pin; newer tags and drift do not count")
	return cmd
}

// outdatedView is how the pins stand. Its JSON form is version 1.
type outdatedView struct {
	Version int             `json:"version"`
	Pins    []outdatedPin   `json:"pins"`
	Drift   []planner.Drift `json:"drift"`
	now     time.Time
}

// outdatedPin is one entry of the lock.
type outdatedPin struct {
	Ref     string     `json:"reference"`
	Locked  string     `json:"locked"`            // digest or commit
	Current string     `json:"current"`           // what the tag, the reference or the URL names now; "" when that cannot be found out
	Created *time.Time `json:"created,omitempty"` // the time in the locked image
	Newer   []string   `json:"newerTags"`         // newest first
	UsedBy  []string   `json:"usedBy"`
	Moved   bool       `json:"outdated"` // current is another than locked
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
	a.noteUnlocked(pins{lock: p.lock}, p.graph)
	v := outdatedView{Version: 1, Drift: p.graph.Drift(), now: time.Now()}
	var failure error
	v.Pins, failure = p.outdated(ctx)
	if err := v.print(a.stdout, o.format); err != nil {
		return err
	}
	moved := 0
	for _, pin := range v.Pins {
		if pin.Moved {
			moved++
		}
	}
	if failure == nil && moved > 0 && o.exitCode {
		return differenceError{plural(moved, "pin") + " out of date: bake update moves them"}
	}
	if failure == nil {
		fmt.Fprintf(a.stderr, "%s: %s, %d out of date\n", config.LockName, plural(len(v.Pins), "pin"), moved)
	}
	return failure
}

// outdated asks for each pin that is used: one request for what its tag names, and one for the tags of each repository. What
// cannot be asked is told by the error, and leaves gaps.
func (p *lockPlan) outdated(ctx context.Context) ([]outdatedPin, error) {
	pins := []outdatedPin{}
	for _, key := range p.lock.Keys() {
		if users := p.usedBy(key); users != nil {
			pins = append(pins, outdatedPin{Ref: key, Locked: p.lock.Pin(key), UsedBy: users, Newer: []string{}})
		}
	}
	tags := newTagLists(p.client)
	failures := make([]error, len(pins))
	var g errgroup.Group
	g.SetLimit(looksAtOnce)
	for i := range pins {
		g.Go(func() error {
			failures[i] = p.look(ctx, tags, &pins[i])
			return nil
		})
	}
	_ = g.Wait() // what failed is in failures
	return pins, joinFailures(failures...)
}

// look fills in what is known of one pin.
func (p *lockPlan) look(ctx context.Context, tags *tagLists, pin *outdatedPin) (err error) {
	if u := p.source(pin.Ref); u != nil {
		pin.Current, err = p.current(ctx, *u)
		pin.Moved = err == nil && pin.Current != pin.Locked
		return err
	}
	if b := p.image(pin.Ref); !b.Created.IsZero() {
		pin.Created = &b.Created
	}
	now, err := p.client.Head(ctx, pin.Ref)
	if err != nil {
		return err
	}
	pin.Current, pin.Moved = now.String(), now.String() != pin.Locked
	pin.Newer = newerTags(tagOf(pin.Ref), tags.of(ctx, pin.Ref[:strings.LastIndex(pin.Ref, ":")]))
	return nil
}

func (v outdatedView) print(w io.Writer, format string) error {
	if format == "json" {
		v.Drift = append([]planner.Drift{}, v.Drift...)
		return printIndented(w, v)
	}
	v.Pins = slices.DeleteFunc(v.Pins, func(p outdatedPin) bool { return !p.Moved && p.Current != "" && len(p.Newer) == 0 })
	if format == "markdown" {
		return v.printMarkdown(w)
	}
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	if len(v.Pins) > 0 {
		fmt.Fprintln(t, "REFERENCE\tLOCKED\tCURRENT\tAGE\tNEWER TAGS\tUSED BY")
	}
	for _, p := range v.Pins {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", shownName(p.Ref), shortPin(p.Locked), p.current(), p.age(v.now), p.newer(), namedTargets(p.UsedBy))
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
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", shownName(u.Ref), shortPin(u.Digest.String()), pinnedText(u), namedTargets(u.Targets), namedPlaces(u.Places))
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
		fmt.Fprintf(&b, "| `%s` | `%s` | `%s` | %s | %s | %s |\n", shownName(p.Ref), shortPin(p.Locked), p.current(), p.age(v.now), p.newer(), namedTargets(p.UsedBy))
	}
	if len(v.Drift) > 0 {
		b.WriteString("\n### Drift\n\n| Repository | Reference | Digest | Pinned | Used by | Where |\n|---|---|---|---|---|---|\n")
	}
	for _, d := range v.Drift {
		for _, u := range d.Uses {
			fmt.Fprintf(&b, "| `%s` | `%s` | `%s` | %s | %s | %s |\n", shownNames(d.Repository), shownName(u.Ref), shortPin(u.Digest.String()), pinnedText(u),
				namedTargets(u.Targets), namedPlaces(u.Places))
		}
		for _, note := range d.Notes {
			fmt.Fprintf(&b, "| | %s | | | | |\n", note)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p outdatedPin) current() string {
	switch {
	case p.Current == "":
		return "?"
	case !p.Moved:
		return "same"
	}
	return shortPin(p.Current)
}

func (p outdatedPin) age(now time.Time) string {
	if p.Created == nil {
		return "-"
	}
	return humanAge(now, *p.Created)
}

// newer shows the newest three tags and counts the rest.
func (p outdatedPin) newer() string {
	if len(p.Newer) == 0 {
		return "-"
	}
	shown := strings.Join(p.Newer[:min(3, len(p.Newer))], ", ")
	if rest := len(p.Newer) - 3; rest > 0 {
		shown += fmt.Sprintf(" and %d more", rest)
	}
	return shown
}

// namedPlaces is namedTargets of lines of files, of which the names are anybody's.
func namedPlaces(places []string) string {
	safe := make([]string, len(places))
	for i, p := range places {
		safe[i] = oneLine(p)
	}
	return namedTargets(safe)
}

// pinnedText says where a use of a repository is pinned.
func pinnedText(u planner.DriftUse) string {
	switch u.Pinned {
	case "no":
		return "floating"
	case "lock":
		return "locked"
	}
	return "written"
}

// shownNames is shownName of several, with commas.
func shownNames(names string) string {
	all := strings.Split(names, ", ")
	for i := range all {
		all[i] = shownName(all[i])
	}
	return strings.Join(all, ", ")
}
