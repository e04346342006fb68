package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	digest "github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

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
		Short: "List the pins whose tags name something else now, and where targets drift apart",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.outdatedCommand(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.StringVar(&o.format, "format", "text", "text, json or markdown")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit with 6 when a pin is out of date")
	return cmd
}

// outdatedView is what is out of date. Its JSON form is version 1.
type outdatedView struct {
	Version int        `json:"version"`
	Pins    []movedPin `json:"pins"`
	Drift   []drift    `json:"drift"`
}

// drift is a repository of which targets use several tags.
type drift struct {
	Repository string     `json:"repository"`
	Uses       []driftUse `json:"uses"`
}

type driftUse struct {
	Tag     string        `json:"tag"`
	Digest  digest.Digest `json:"digest"`
	Targets []string      `json:"targets"`
}

func (a *app) outdatedCommand(ctx context.Context, o outdatedOptions) error {
	if !slices.Contains([]string{"text", "json", "markdown"}, o.format) {
		return usagef("--format=%s: expected text, json or markdown", o.format)
	}
	_, bases, lock, err := a.resolveBases(ctx, o.project, func(string) bool { return true })
	if err != nil {
		return err
	}
	v := outdatedView{Version: 1, Pins: movedPins(lock, bases), Drift: driftOf(bases)}
	if err := v.print(a.stdout, o.format); err != nil {
		return err
	}
	if len(v.Pins) > 0 && o.exitCode {
		return differenceError{plural(len(v.Pins), "pin") + " out of date: bake update moves them"}
	}
	return nil
}

// driftOf finds the repositories of which several tags or digests are used.
func driftOf(bases []planner.BaseUse) []drift {
	byRepository := map[string][]driftUse{}
	for _, b := range bases {
		repository, tag := b.Ref, ""
		if i := strings.LastIndexAny(b.Ref, ":@"); i > strings.LastIndex(b.Ref, "/") {
			repository, _, _ = strings.Cut(b.Ref[:i], "@")
			tag = b.Ref[i+1:]
		}
		byRepository[repository] = append(byRepository[repository], driftUse{tag, b.Digest, b.Targets})
	}
	var list []drift
	for _, r := range slices.Sorted(maps.Keys(byRepository)) {
		if len(byRepository[r]) > 1 {
			list = append(list, drift{r, byRepository[r]})
		}
	}
	return list
}

func (v outdatedView) print(w io.Writer, format string) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "markdown":
		return v.printMarkdown(w)
	}
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	if len(v.Pins) > 0 {
		fmt.Fprintln(t, "REFERENCE\tLOCKED\tCURRENT\tUSED BY")
	}
	for _, p := range v.Pins {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", shownName(p.Ref), shortDigest(p.Locked), shortDigest(p.Current), strings.Join(p.UsedBy, ", "))
	}
	if err := t.Flush(); err != nil || len(v.Drift) == 0 {
		return err
	}
	fmt.Fprintln(t, "\nDrift")
	fmt.Fprintln(t, "REPOSITORY\tTAG\tDIGEST\tUSED BY")
	for _, d := range v.Drift {
		for _, u := range d.Uses {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", shownName(d.Repository), u.Tag, shortDigest(u.Digest), strings.Join(u.Targets, ", "))
		}
	}
	return t.Flush()
}

func (v outdatedView) printMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("| Reference | Locked | Current | Used by |\n|---|---|---|---|\n")
	for _, p := range v.Pins {
		fmt.Fprintf(&b, "| `%s` | `%s` | `%s` | %s |\n", shownName(p.Ref), shortDigest(p.Locked), shortDigest(p.Current), strings.Join(p.UsedBy, ", "))
	}
	if len(v.Drift) > 0 {
		b.WriteString("\n### Drift\n\n| Repository | Tag | Digest | Used by |\n|---|---|---|---|\n")
	}
	for _, d := range v.Drift {
		for _, u := range d.Uses {
			fmt.Fprintf(&b, "| `%s` | `%s` | `%s` | %s |\n", shownName(d.Repository), u.Tag, shortDigest(u.Digest), strings.Join(u.Targets, ", "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shortDigest is enough of a digest to tell two apart.
func shortDigest(d digest.Digest) string {
	if len(d) > 19 {
		return string(d[:19])
	}
	return string(d)
}
