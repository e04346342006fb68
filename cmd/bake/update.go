package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner/pins"
)

type updateOptions struct {
	project projectOptions
	dryRun  bool
	to      string
	format  string
}

func newUpdateCommand(a *app) *cobra.Command {
	var o updateOptions
	cmd := &cobra.Command{
		Use:   "update [NAME…]",
		Short: "Move pins to the current digests and commits",
		Long: "Move the pins that a NAME matches, or all pins, to the digests and commits that their\n" +
			"references now resolve to. A NAME is a reference, or a base block of the project. A reference may be\n" +
			"shortened to its last path components, and may contain *.\n\n" +
			"For each moved pin, list both digests with their age, the platforms gained and lost,\n" +
			"and the targets to rebuild.",
		Example: "  bake update golang\n  bake update --dry-run --format=markdown",
		RunE:    func(cmd *cobra.Command, args []string) error { return a.updateCommand(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.BoolVar(&o.dryRun, "dry-run", false, "print what would move, and write nothing")
	f.StringVar(&o.to, "to", "",
		"move the pins to this tag of their repository, or to this digest; the references in the project do not change")
	f.StringVar(&o.format, "format", "text", "output format: text, json, or markdown for a pull request")
	return cmd
}

func (a *app) updateCommand(ctx context.Context, o updateOptions, names []string) error {
	if err := checkFormat(o.format); err != nil {
		return err
	}
	if o.to != "" && len(names) == 0 {
		return usagef("--to=%s: no pin named; use bake update NAME --to %s", o.to, o.to)
	}
	var selected func(string) bool
	p, err := a.planLock(ctx, o.project, lockChange{
		read: pins.ReadExisting,
		release: func(ctx context.Context, p *pins.Plan, used *config.Lock) (err error) {
			selected, err = p.Release(ctx, used, names, o.to)
			return err
		},
	})
	if err != nil {
		return err
	}
	defer p.Close()
	moved, err := p.Move(ctx, selected, o.dryRun)
	if err != nil {
		return err
	}
	if err := printMoved(a.stdout, o.format, moved); err != nil {
		return err
	}
	if len(moved) > 0 && !o.dryRun {
		if err := p.Lock.Write(p.Project.Dir); err != nil {
			return err
		}
	}
	verb := "moved"
	if o.dryRun {
		verb = "would move"
	}
	fmt.Fprintf(a.stderr, "%s: %s %s\n", config.LockName, plural(len(moved), "pin"), verb)
	return nil
}

// checkFormat checks the --format of update and outdated.
func checkFormat(format string) error {
	if !slices.Contains([]string{"text", "json", "markdown"}, format) {
		return usagef("--format=%s: expected text, json or markdown", format)
	}
	return nil
}

func printMoved(w io.Writer, format string, moved []pins.Moved) error {
	switch format {
	case "json":
		return printIndented(w, struct {
			Version int          `json:"version"`
			Moved   []pins.Moved `json:"moved"`
		}{1, append([]pins.Moved{}, moved...)})
	case "markdown":
		return printMovedMarkdown(w, moved)
	}
	for _, m := range moved {
		fmt.Fprintf(w, "%s\n  from %s\n  to   %s\n", shownName(m.Ref), factsText(m.Locked), factsText(m.Current))
		if text := platformText(m); text != "" {
			fmt.Fprintf(w, "  platforms %s\n", text)
		}
		fmt.Fprintf(w, "  rebuilds %s\n", strings.Join(m.Targets, ", "))
	}
	return nil
}

func printMovedMarkdown(w io.Writer, moved []pins.Moved) error {
	if len(moved) == 0 {
		return nil
	}
	fmt.Fprint(w, "| Reference | From | To | Platforms | Rebuilds |\n|---|---|---|---|---|\n")
	for _, m := range moved {
		_, err := fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s |\n", shownName(m.Ref),
			factsMarkdown(m.Locked), factsMarkdown(m.Current), platformText(m), strings.Join(m.Targets, ", "))
		if err != nil {
			return err
		}
	}
	return nil
}

func printIndented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// factsText returns a pin, with the other facts in brackets.
func factsText(f pins.Facts) string { return strings.TrimSpace(f.Pin + " " + imageFacts(f)) }

func factsMarkdown(f pins.Facts) string {
	return strings.TrimSpace("`" + shortPin(f.Pin) + "` " + imageFacts(f))
}

func imageFacts(f pins.Facts) string {
	var list []string
	if f.Created != nil {
		list = append(list, "created "+humanAge(time.Now(), *f.Created))
	}
	for _, label := range []struct{ name, value string }{
		{"version", f.Version}, {"revision", f.Revision}, {"source", f.Source},
	} {
		if label.value != "" {
			list = append(list, label.name+" "+oneLine(label.value))
		}
	}
	if len(list) == 0 {
		return ""
	}
	return "(" + strings.Join(list, ", ") + ")"
}

func platformText(m pins.Moved) string {
	var parts []string
	if len(m.Gained) > 0 {
		parts = append(parts, "gained "+strings.Join(m.Gained, ", "))
	}
	if len(m.Lost) > 0 {
		parts = append(parts, "lost "+strings.Join(m.Lost, ", "))
	}
	return strings.Join(parts, "; ")
}

// oneLine makes text from a registry safe to show in a table: one line, without control characters and Markdown syntax.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || strings.ContainsRune("|`<>", r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return truncate(s, 100)
}

// shortPin returns the start of a digest or commit, enough to distinguish two.
func shortPin(pin string) string {
	if strings.HasPrefix(pin, "sha256:") {
		return pin[:min(len(pin), 19)]
	}
	return pin[:min(len(pin), 12)]
}
