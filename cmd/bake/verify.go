package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// looksAtOnce is how many references are asked for at one time.
const looksAtOnce = 8

type verifyOptions struct {
	project projectOptions
	online  bool
}

func newVerifyCommand(a *app) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that " + config.LockName + " is what the project needs",
		Long: "Verify checks that all that the targets stand on is locked and nothing else is, that it has the platforms that are built,\n" +
			"and that the policies hold. With --online it also asks whether the registries and servers still have what is locked, and\n" +
			"whether tags that look like whole versions, such as 1.2.3, still name it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.verifyCommand(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.BoolVar(&o.online, "online", false, "ask the registries and servers too")
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
	if p.lock == nil {
		return usagef("a project that comes from elsewhere has no lock here: run this where its files are")
	}
	s, err := a.open(false)
	if err != nil {
		return err
	}
	defer s.Close()
	graph, err := s.plan(ctx, project, runOptions{pins: p})
	if err != nil {
		return err
	}
	found := []error{checkUnused(p.lock, graph), a.checkRules(project, graph)}
	if o.online {
		found = append(found, s.verifyOnline(ctx, p.lock, graph)...)
	}
	if err := joinFailures(found...); err != nil {
		return err
	}
	what := "nothing missing, nothing unused"
	if o.online {
		what += ", nothing gone or moved"
	}
	_, err = fmt.Fprintf(a.stderr, "%s: %s, %s\n", config.LockName, plural(p.lock.Len(), "pin"), what)
	return err
}

// verifyOnline asks for each pin, and says in the order of the lock what is wrong with it.
func (s *session) verifyOnline(ctx context.Context, lock *config.Lock, graph *planner.Graph) []error {
	keys := lock.Keys()
	found := make([]error, len(keys))
	var g errgroup.Group
	g.SetLimit(looksAtOnce)
	for i, key := range keys {
		g.Go(func() error {
			if pin, ok := lock.Images[key]; ok {
				found[i] = s.verifyImage(ctx, key, pin, graph)
			} else if k := slices.IndexFunc(graph.Sources, func(u planner.SourceUse) bool { return u.Key == key }); k >= 0 {
				found[i] = s.verifySource(ctx, graph.Sources[k], lock.Pin(key))
			}
			return nil
		})
	}
	_ = g.Wait() // what was found is in found
	return slices.DeleteFunc(found, func(err error) bool { return err == nil })
}

// verifyImage asks whether what is locked is still there, and whether a tag that looks like a whole version still names it.
func (s *session) verifyImage(ctx context.Context, ref string, pin config.ImagePin, graph *planner.Graph) error {
	place := ref
	if pin.From != "" {
		place = pin.From
	}
	shown := shownName(ref)
	_, err := s.client.Head(ctx, place+"@"+pin.Digest.String())
	var refused *registry.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return &planner.LockError{What: fmt.Sprintf("%s: %s is gone from %s%s: bake update %s moves the pin", shown, pin.Digest, place, s.namesNow(ctx, ref), shown)}
	}
	if err == nil {
		err = s.verifyPlatforms(ctx, ref, place+"@"+pin.Digest.String(), graph)
	}
	if err != nil || !looksImmutable(tagOf(ref)) {
		return err
	}
	now, err := s.client.Head(ctx, ref)
	if err != nil || now == pin.Digest {
		return err
	}
	return &planner.LockError{What: fmt.Sprintf("%s: the tag looks like a whole version, and was moved: it names %s now, and %s was locked. Find out who pushed it again; bake update %s accepts it",
		shown, now, pin.Digest, shown)}
}

// verifyPlatforms asks for the images of the platforms that are built, which may be gone while the index that names them is there.
func (s *session) verifyPlatforms(ctx context.Context, ref, pinned string, graph *planner.Graph) error {
	for _, b := range graph.Bases {
		if b.Ref != ref {
			continue
		}
		for _, name := range b.UsedPlatforms {
			p, err := platforms.Parse(name)
			if err != nil {
				return err
			}
			_, err = s.client.Resolve(ctx, pinned, p)
			var refused *registry.Error
			if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
				return &planner.LockError{What: fmt.Sprintf("%s: %s is there, and its image for %s is gone: bake update %s moves the pin", shownName(ref), pinned, name, shownName(ref))}
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// namesNow says what a tag names, for a message.
func (s *session) namesNow(ctx context.Context, ref string) string {
	now, err := s.client.Head(ctx, ref)
	if err != nil {
		return ", and so is the tag"
	}
	return fmt.Sprintf(", and the tag names %s now", now)
}

// verifySource asks for what a git tag that looks like a whole version names, and for the file behind a URL.
func (s *session) verifySource(ctx context.Context, u planner.SourceUse, pin string) error {
	if u.Git && !looksImmutable(strings.TrimPrefix(u.Ref, "refs/tags/")) {
		return nil
	}
	now, err := s.current(ctx, u)
	switch {
	case err != nil || now == pin:
		return err
	case u.Git:
		return &planner.LockError{What: fmt.Sprintf("%s: the tag looks like a whole version, and was moved: it names %s now, and %s was locked", u.Key, now, pin)}
	}
	return &planner.LockError{What: fmt.Sprintf("%s: its content is %s now, and %s, which was locked, is gone: bake update moves the pin", u.Key, now, pin)}
}

// wholeVersion is a tag that its publisher is not expected to move.
var wholeVersion = regexp.MustCompile(`^v?\d+\.\d+\.\d+([-+._].+)?$`)

// looksImmutable says whether a tag looks like a whole version, such as 1.2.3 or v1.2.3-alpine.
func looksImmutable(tag string) bool { return wholeVersion.MatchString(tag) }

// tagOf is the tag of a normalised reference.
func tagOf(ref string) string { return ref[strings.LastIndex(ref, ":")+1:] }

// checkUnused refuses a lock with entries that a plan of the whole project does not need.
func checkUnused(l *config.Lock, g *planner.Graph) error {
	if extra := unused(l, g); len(extra) > 0 {
		return &planner.LockError{What: fmt.Sprintf("%s has entries that nothing uses: %s: run bake pin and commit it", config.LockName, strings.Join(extra, ", "))}
	}
	return nil
}
