package pins

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// Verify checks each pin against its registry or server, and returns what is wrong in the order of the lock: images
// that no longer exist, version tags that were pushed again, URLs whose content changed. Such an error is a
// *planner.LockError; others are about the request. graph tells which platforms are built.
func (r Remote) Verify(ctx context.Context, lock *config.Lock, graph *planner.Graph) []error {
	keys := lock.Keys()
	found := make([]error, len(keys))
	var g errgroup.Group
	g.SetLimit(maxLookups)
	for i, key := range keys {
		g.Go(func() error {
			if pin, ok := lock.Images[key]; ok {
				found[i] = r.verifyImage(ctx, key, pin, graph)
			} else if u := source(graph, key); u != nil {
				found[i] = r.verifySource(ctx, *u, lock.Pin(key))
			}
			return nil
		})
	}
	_ = g.Wait() // errors are in found
	return slices.DeleteFunc(found, func(err error) bool { return err == nil })
}

// verifyImage checks that a pinned image exists, and that a version tag still names it.
func (r Remote) verifyImage(ctx context.Context, ref string, pin config.ImagePin, graph *planner.Graph) error {
	repository := ref
	if pin.From != "" {
		repository = pin.From
	}
	pinned := repository + "@" + pin.Digest.String()
	shown := planner.FamiliarName(ref)
	_, err := r.Registry.Head(ctx, pinned)
	if isNotFound(err) {
		return &planner.LockError{What: fmt.Sprintf("%s: %s no longer exists at %s (%s); move the pin: bake update %s",
			shown, pin.Digest, repository, r.describeTag(ctx, ref), shown)}
	}
	if err == nil {
		err = r.verifyPlatforms(ctx, ref, pinned, graph)
	}
	if err != nil || !looksImmutable(tagOf(ref)) {
		return err
	}
	now, err := r.Registry.Head(ctx, ref)
	if err != nil || now == pin.Digest {
		return err
	}
	return &planner.LockError{What: fmt.Sprintf(
		"%s: the version tag was pushed again: locked %s, now %s; if this is expected, accept it: bake update %s",
		shown, pin.Digest, now, shown)}
}

// verifyPlatforms checks the images of the platforms that are built: they may be deleted while their index still
// exists.
func (r Remote) verifyPlatforms(ctx context.Context, ref, pinned string, graph *planner.Graph) error {
	for _, b := range graph.Bases {
		if b.Ref != ref {
			continue
		}
		for _, name := range b.UsedPlatforms {
			p, err := platforms.Parse(name)
			if err != nil {
				return err
			}
			err = r.Platforms.CheckPlatform(ctx, pinned, p)
			if isNotFound(err) {
				shown := planner.FamiliarName(ref)
				return &planner.LockError{What: fmt.Sprintf("%s: the %s image of %s no longer exists; move the pin: "+
					"bake update %s",
					shown, name, pinned, shown)}
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// describeTag returns a phrase about what a tag names now.
func (r Remote) describeTag(ctx context.Context, ref string) string {
	now, err := r.Registry.Head(ctx, ref)
	if err != nil {
		return "nor does the tag"
	}
	return "the tag now names " + now.String()
}

// verifySource checks that a git tag that looks like a version was not moved, or that a URL still has the same content.
func (r Remote) verifySource(ctx context.Context, u planner.SourceUse, pin string) error {
	if u.Git && !looksImmutable(strings.TrimPrefix(u.Ref, "refs/tags/")) {
		return nil
	}
	now, err := r.current(ctx, u)
	switch {
	case err != nil || now == pin:
		return err
	case u.Git:
		return &planner.LockError{What: fmt.Sprintf(
			"%s: the version tag was moved: locked %s, now %s; if this is expected, accept it: bake update '%s'",
			u.Key, pin, now, u.Key)}
	}
	return &planner.LockError{What: fmt.Sprintf("%s: the content changed: locked %s, now %s; move the pin: bake "+
		"update '%s'",
		u.Key, pin, now, u.Key)}
}

// isNotFound reports whether a registry answered that an image does not exist.
func isNotFound(err error) bool {
	var e interface{ NotFound() bool }
	return errors.As(err, &e) && e.NotFound()
}

// fullVersion matches a tag with a full version, which its publisher is not expected to move.
var fullVersion = regexp.MustCompile(`^v?\d+\.\d+\.\d+([-+._].+)?$`)

// looksImmutable reports whether a tag is a full version, such as 1.2.3 or v1.2.3-alpine.
func looksImmutable(tag string) bool { return fullVersion.MatchString(tag) }
