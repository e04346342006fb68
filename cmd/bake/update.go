package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
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
		Short: "Move pins to what their tags name now",
		Long: "Update moves the pins of the references, URLs or base blocks named, else all of them. Names may be short and have * in them.\n" +
			"It tells what moved, how old both are, which platforms came and went, and the targets that build again.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.updateCommand(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would move, and write nothing")
	f.StringVar(&o.to, "to", "", "move the pins of NAME to what this tag of their repository names, or to this digest; what the project says stays")
	f.StringVar(&o.format, "format", "text", "text, json or markdown, as for the text of a pull request")
	return cmd
}

func (a *app) updateCommand(ctx context.Context, o updateOptions, names []string) error {
	if err := checkFormat(o.format); err != nil {
		return err
	}
	if o.to != "" && len(names) == 0 {
		return usagef("--to=%s: say which pin moves: bake update NAME --to %s", o.to, o.to)
	}
	var moves func(string) bool
	p, err := a.planLock(ctx, o.project, lockChange{
		read: a.readNeededLock,
		change: func(ctx context.Context, before *lockPlan) (err error) {
			moves, err = before.moveKeys(ctx, names, o.to)
			return err
		},
	})
	if err != nil {
		return err
	}
	defer p.Close()
	moved, err := p.move(ctx, moves, o.dryRun)
	if err != nil {
		return err
	}
	if err := printMoved(a.stdout, o.format, moved); err != nil {
		return err
	}
	if len(moved) > 0 && !o.dryRun {
		if err := p.lock.Write(p.project.Dir); err != nil {
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

// checkFormat checks what the tables about pins are printed as.
func checkFormat(format string) error {
	if !slices.Contains([]string{"text", "json", "markdown"}, format) {
		return usagef("--format=%s: expected text, json or markdown", format)
	}
	return nil
}

// readNeededLock is config.ReadLock of a lock that must be there.
func (a *app) readNeededLock(dir string) (*config.Lock, error) {
	lock, err := config.ReadLock(dir)
	if err == nil && lock == nil {
		err = &planner.LockError{What: "there is no " + config.LockName + " in " + dir + ": run bake pin first"}
	}
	return lock, err
}

// moveKeys changes the lock that a plan is made with: the pins named are taken out, so that they are asked for, or point where
// the tag or digest says.
func (p *lockPlan) moveKeys(ctx context.Context, names []string, to string) (func(string) bool, error) {
	moves, err := selectKeys(p.project, p.used.Keys(), names)
	if err != nil {
		return nil, err
	}
	for _, key := range p.used.Keys() {
		if !moves(key) {
			continue
		}
		_, isImage := p.used.Images[key]
		p.used.Delete(key)
		if to == "" {
			continue
		}
		if !isImage {
			return nil, usagef("--to=%s: %s is no image", to, key)
		}
		d, err := p.digestOf(ctx, key, to)
		if err != nil {
			return nil, err
		}
		p.used.Images[key] = config.ImagePin{Digest: d}
	}
	return moves, nil
}

// digestOf is a digest as it is written, or what a tag of a reference's repository names now.
func (s *session) digestOf(ctx context.Context, ref, to string) (digest.Digest, error) {
	if d := digest.Digest(to); d.Validate() == nil {
		return d, nil
	}
	return s.client.Head(ctx, ref[:strings.LastIndex(ref, ":")]+":"+to)
}

// movedPin is a pin that names something else than before.
type movedPin struct {
	Ref     string   `json:"reference"`
	Locked  pinFacts `json:"locked"`
	Current pinFacts `json:"current"`
	Gained  []string `json:"platformsGained"`
	Lost    []string `json:"platformsLost"`
	Targets []string `json:"rebuilds"` // that build again
}

// pinFacts is what is known of one of the things that a pin may name.
type pinFacts struct {
	Pin       string     `json:"pin"` // digest or commit
	Created   *time.Time `json:"created,omitempty"`
	Version   string     `json:"version,omitempty"` // the labels of the Open Container Initiative
	Revision  string     `json:"revision,omitempty"`
	Source    string     `json:"source,omitempty"`
	platforms []string
}

// move puts what the chosen keys stand for now into the lock, and says what that changed. What is kept elsewhere is copied there,
// unless it is only asked what would move.
func (p *lockPlan) move(ctx context.Context, moves func(string) bool, dry bool) ([]movedPin, error) {
	var moved []movedPin
	for _, key := range p.lock.Keys() {
		if !moves(key) || p.usedBy(key) == nil {
			continue
		}
		old := p.lock.Pin(key)
		if err := p.pin(ctx, key); err != nil {
			return nil, err
		}
		now := p.lock.Pin(key)
		if old == now {
			continue
		}
		pin, isImage := p.lock.Images[key]
		if isImage && pin.From != "" && !dry {
			if err := p.copyImage(ctx, key, config.ImagePin{Digest: pin.Digest}, pin.From); err != nil {
				return nil, err
			}
		}
		m := movedPin{Ref: key, Locked: pinFacts{Pin: old}, Current: pinFacts{Pin: now}, Gained: []string{}, Lost: []string{}, Targets: p.graph.Users(key)}
		if isImage {
			m.Locked, m.Current = p.facts(ctx, key, old), p.facts(ctx, key, now)
			m.Gained, m.Lost = without(m.Current.platforms, m.Locked.platforms), without(m.Locked.platforms, m.Current.platforms)
		}
		moved = append(moved, m)
	}
	return moved, nil
}

// facts asks what an image is. What cannot be found out, such as of one that is gone, stays empty.
func (p *lockPlan) facts(ctx context.Context, ref, pin string) pinFacts {
	f := pinFacts{Pin: pin}
	if from := p.lock.Images[ref].From; from != "" {
		ref = from
	}
	known, err := p.resolver.ResolveImage(ctx, ref+"@"+pin, platforms.Normalize(platforms.DefaultSpec()))
	if err != nil {
		return f
	}
	var image ocispecs.Image
	if json.Unmarshal(known.Config, &image) != nil {
		return f
	}
	f.platforms = known.Platforms
	if image.Created != nil && image.Created.Unix() > 0 {
		f.Created = image.Created
	}
	labels := image.Config.Labels
	f.Version, f.Revision, f.Source = labels[ocispecs.AnnotationVersion], labels[ocispecs.AnnotationRevision], labels[ocispecs.AnnotationSource]
	return f
}

// without is what is in one list and not in another; nothing when either is not known.
func without(list, other []string) []string {
	rest := []string{}
	if len(list) == 0 || len(other) == 0 {
		return rest
	}
	for _, s := range list {
		if !slices.Contains(other, s) && !slices.Contains(rest, s) {
			rest = append(rest, s)
		}
	}
	return rest
}

func printMoved(w io.Writer, format string, moved []movedPin) error {
	switch format {
	case "json":
		return printIndented(w, struct {
			Version int        `json:"version"`
			Moved   []movedPin `json:"moved"`
		}{1, append([]movedPin{}, moved...)})
	case "markdown":
		return printMovedMarkdown(w, moved)
	}
	for _, m := range moved {
		fmt.Fprintf(w, "%s\n  from %s\n  to   %s\n", shownName(m.Ref), m.Locked, m.Current)
		if text := m.platformText(); text != "" {
			fmt.Fprintf(w, "  platforms %s\n", text)
		}
		fmt.Fprintf(w, "  rebuilds %s\n", strings.Join(m.Targets, ", "))
	}
	return nil
}

func printMovedMarkdown(w io.Writer, moved []movedPin) error {
	if len(moved) == 0 {
		return nil
	}
	fmt.Fprint(w, "| Reference | From | To | Platforms | Rebuilds |\n|---|---|---|---|---|\n")
	for _, m := range moved {
		_, err := fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s |\n", shownName(m.Ref), m.Locked.markdown(), m.Current.markdown(), m.platformText(), strings.Join(m.Targets, ", "))
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

// String is the pin, with what is known of it in brackets.
func (f pinFacts) String() string { return strings.TrimSpace(f.Pin + " " + f.about()) }

func (f pinFacts) markdown() string {
	return strings.TrimSpace("`" + shortPin(f.Pin) + "` " + f.about())
}

func (f pinFacts) about() string {
	var about []string
	if f.Created != nil {
		about = append(about, "made "+humanAge(time.Now(), *f.Created))
	}
	for _, label := range []struct{ name, value string }{{"version", f.Version}, {"revision", f.Revision}, {"source", f.Source}} {
		if label.value != "" {
			about = append(about, label.name+" "+oneLine(label.value))
		}
	}
	if len(about) == 0 {
		return ""
	}
	return "(" + strings.Join(about, ", ") + ")"
}

// oneLine makes foreign text safe to show in a table: one line, without what a terminal or Markdown would act on.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || strings.ContainsRune("|`<>", r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return truncate(s, 100)
}

func (m movedPin) platformText() string {
	var parts []string
	if len(m.Gained) > 0 {
		parts = append(parts, "gained "+strings.Join(m.Gained, ", "))
	}
	if len(m.Lost) > 0 {
		parts = append(parts, "lost "+strings.Join(m.Lost, ", "))
	}
	return strings.Join(parts, "; ")
}

// shortPin is enough of a digest or a commit to tell two apart.
func shortPin(pin string) string {
	if strings.HasPrefix(pin, "sha256:") {
		return pin[:min(len(pin), 19)]
	}
	return pin[:min(len(pin), 12)]
}
