package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

type pinOptions struct {
	project projectOptions
	noPrune bool
}

func newPinCommand(a *app) *cobra.Command {
	var o pinOptions
	cmd := &cobra.Command{
		Use:   "pin [TARGET…]",
		Short: "Write what the bases of a project stand for into " + config.LockName,
		Long: "Pin adds the bases that " + config.LockName + " lacks, and drops those that no target of the project uses. It never moves a\n" +
			"pin: bake update does.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.project.targets = args
			return a.pinCommand(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.BoolVar(&o.noPrune, "no-prune", false, "keep entries that no target uses")
	return cmd
}

func (a *app) pinCommand(ctx context.Context, o pinOptions) error {
	dir, bases, lock, err := a.resolveBases(ctx, o.project, nil)
	if err != nil {
		return err
	}
	var dropped []string
	if len(o.project.targets) == 0 && !o.noPrune {
		for _, ref := range unused(lock, bases) {
			dropped = append(dropped, ref)
			delete(lock.Images, ref)
		}
	}
	added := unlocked(lock, bases)
	for _, b := range bases {
		if slices.Contains(added, b.Ref) {
			lock.Images[b.Ref] = b.Digest
		}
	}
	if len(added)+len(dropped) > 0 {
		if err := lock.Write(dir); err != nil {
			return err
		}
	}
	for _, ref := range added {
		fmt.Fprintf(a.stdout, "+ %s %s\n", ref, lock.Images[ref])
	}
	for _, ref := range dropped {
		fmt.Fprintf(a.stdout, "- %s\n", ref)
	}
	fmt.Fprintf(a.stderr, "%s: %d added, %d dropped, %s in all\n", config.LockName, len(added), len(dropped), plural(len(lock.Images), "pin"))
	return nil
}

// resolveBases plans and says which bases that took. What the lock has is taken from it, but for the references of which
// moves says yes; all else is asked of the registries now. The lock is empty where there is none.
func (a *app) resolveBases(ctx context.Context, o projectOptions, moves func(ref string) bool) (string, []planner.BaseUse, *config.Lock, error) {
	load := a.loadProject
	if len(o.targets) == 0 {
		load = a.wholeProject
	}
	project, err := load(ctx, o)
	if err != nil {
		return "", nil, nil, err
	}
	if a.fetcher != nil {
		return "", nil, nil, usagef("a project that comes from elsewhere has no lock here: run this where its files are")
	}
	lock, err := config.ReadLock(project.Dir)
	if err != nil {
		return "", nil, nil, err
	}
	if lock == nil {
		lock = &config.Lock{Images: map[string]digest.Digest{}}
	}
	keep := &config.Lock{Images: maps.Clone(lock.Images)}
	maps.DeleteFunc(keep.Images, func(ref string, _ digest.Digest) bool { return moves != nil && moves(ref) })
	s, err := a.open(true)
	if err != nil {
		return "", nil, nil, err
	}
	defer s.Close()
	graph, err := s.plan(ctx, project, runOptions{pins: pins{lock: keep}})
	if err != nil {
		return "", nil, nil, err
	}
	return project.Dir, graph.Bases, lock, nil
}

type updateOptions struct {
	project projectOptions
	dryRun  bool
}

func newUpdateCommand(a *app) *cobra.Command {
	var o updateOptions
	cmd := &cobra.Command{
		Use:   "update [NAME…]",
		Short: "Move pins to what their tags name now",
		Long:  "Update moves the pins of the references or base blocks named, else all of them. Names may be short and have * in them.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.updateCommand(cmd.Context(), o, args)
		},
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would move, and write nothing")
	return cmd
}

func (a *app) updateCommand(ctx context.Context, o updateOptions, names []string) error {
	moves, err := a.selectPins(ctx, o.project, names)
	if err != nil {
		return err
	}
	dir, bases, lock, err := a.resolveBases(ctx, o.project, moves)
	if err != nil {
		return err
	}
	moved := movedPins(lock, bases)
	for _, m := range moved {
		fmt.Fprintf(a.stdout, "%s\n  %s\n  %s\n  used by %s\n", m.Ref, m.Locked, m.Current, strings.Join(m.UsedBy, ", "))
		lock.Images[m.Ref] = m.Current
	}
	if len(moved) > 0 && !o.dryRun {
		if err := lock.Write(dir); err != nil {
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

// movedPin is a pin whose tag names something else now.
type movedPin struct {
	Ref     string        `json:"reference"`
	Locked  digest.Digest `json:"locked"`
	Current digest.Digest `json:"current"`
	UsedBy  []string      `json:"usedBy"`
}

func movedPins(l *config.Lock, bases []planner.BaseUse) []movedPin {
	var list []movedPin
	for _, b := range bases {
		if old, ok := l.Images[b.Ref]; ok && old != b.Digest {
			list = append(list, movedPin{b.Ref, old, b.Digest, b.Targets})
		}
	}
	return list
}

// selectPins says which entries of the lock names mean.
func (a *app) selectPins(ctx context.Context, o projectOptions, names []string) (func(string) bool, error) {
	project, err := a.wholeProject(ctx, o)
	if err != nil {
		return nil, err
	}
	lock, err := config.ReadLock(project.Dir)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, &planner.LockError{What: "there is no " + config.LockName + " in " + project.Dir + ": run bake pin first"}
	}
	if len(names) == 0 {
		return func(string) bool { return true }, nil
	}
	chosen := map[string]bool{}
	for _, name := range names {
		pattern := name
		if b, ok := project.Bases[name]; ok {
			pattern = b.Image
		}
		found := false
		for ref := range lock.Images {
			if matchesRef(pattern, ref) {
				chosen[ref], found = true, true
			}
		}
		if !found {
			return nil, usagef("%s has no entry %s; it has %s", config.LockName, name, strings.Join(slices.Sorted(maps.Keys(lock.Images)), ", "))
		}
	}
	return func(ref string) bool { return chosen[ref] }, nil
}

// matchesRef says whether a pattern means a reference: the whole of it, or its end after a slash; without a tag, any tag.
func matchesRef(pattern, ref string) bool {
	repository := ref[:strings.LastIndex(ref, ":")]
	for _, whole := range []string{ref, repository} {
		for rest := whole; ; {
			if glob(pattern, rest) {
				return true
			}
			_, after, ok := strings.Cut(rest, "/")
			if !ok {
				break
			}
			rest = after
		}
	}
	return false
}

// glob matches a pattern in which * is any text.
func glob(pattern, text string) bool {
	first, rest, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == text
	}
	if !strings.HasPrefix(text, first) {
		return false
	}
	for text = text[len(first):]; ; text = text[1:] {
		if glob(rest, text) {
			return true
		}
		if text == "" {
			return false
		}
	}
}

type verifyOptions struct {
	project projectOptions
	online  bool
}

func newVerifyCommand(a *app) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that " + config.LockName + " is what the project needs",
		Long: "Verify checks that every base of every target is locked, and that nothing else is. With --online it also asks whether the\n" +
			"registries still have what is locked.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.verifyCommand(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.BoolVar(&o.online, "online", false, "ask the registries for every digest")
	return cmd
}

func (a *app) verifyCommand(ctx context.Context, o verifyOptions) error {
	project, err := a.wholeProject(ctx, o.project)
	if err != nil {
		return err
	}
	p, err := a.loadPins(project.Dir, lockOptions{mode: lockLocked})
	if err != nil {
		return err
	}
	s, err := a.open(false)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := a.checkLocked(ctx, s, o.project, p); err != nil {
		return err
	}
	if o.online {
		for _, ref := range slices.Sorted(maps.Keys(p.lock.Images)) {
			if err := s.client.Check(ctx, ref+"@"+p.lock.Images[ref].String()); err != nil {
				return fmt.Errorf("verify %s: %w", ref, err)
			}
		}
	}
	_, err = io.WriteString(a.stderr, config.LockName+": "+plural(len(p.lock.Images), "pin")+", nothing missing, nothing unused\n")
	return err
}
