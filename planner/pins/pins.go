// Package pins keeps bake.lock up to date: it adds, moves, copies, checks and prints pins.
//
// A pin fixes what a reference stands for: the digest of an image, the commit of a git reference, or the checksum of a
// file behind a URL. The planner applies pins; this package decides which pins there should be.
//
// The package imports config and planner only. It reaches registries and servers through the interfaces in Remote, so
// its tests need no network. It prints nothing: results and errors are values, and the commands show them.
package pins

import (
	"context"
	"slices"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// Plan is a project planned with its lock. Methods that change pins change Lock in memory; the caller writes the file.
type Plan struct {
	Project *config.Project
	Lock    *config.Lock   // the content of bake.lock; empty if there is no file
	Graph   *planner.Graph // planned with Lock, or with the copy that Release changed
	Remote
}

// Remote gives access to the registries and servers that pins point to.
type Remote struct {
	Registry  Registry
	Platforms PlatformChecker
	Images    planner.Resolver // may answer from a cache
	Sources   Sources
}

// Registry looks up and copies images. *registry.Client implements it. An error about a missing image has a method
// NotFound that returns true.
type Registry interface {
	// Head returns the digest that a reference names now.
	Head(ctx context.Context, ref string) (digest.Digest, error)
	// Tags lists the tags of a repository.
	Tags(ctx context.Context, repository string) ([]string, error)
	// Copy copies an image with all its platforms.
	Copy(ctx context.Context, from, to string) error
}

// PlatformChecker checks that a registry still serves the image of one platform. An index may outlive the images that
// it lists. A missing image is reported as by Registry.
type PlatformChecker interface {
	CheckPlatform(ctx context.Context, ref string, p ocispecs.Platform) error
}

// Sources looks up what git references and URLs stand for now.
type Sources interface {
	// Commit returns the commit that a git reference names; ref "" is the default branch.
	Commit(ctx context.Context, remote, ref string) (string, error)
	// Content returns the digest of the file behind a URL.
	Content(ctx context.Context, url string) (digest.Digest, error)
}

// UsageError is a mistake in the arguments of a command, such as a name that matches no pin.
type UsageError struct{ Err error }

// Error implements error.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// current returns what a git reference or a URL stands for now: a commit or a digest.
func (r Remote) current(ctx context.Context, u planner.SourceUse) (string, error) {
	if u.Git {
		return r.Sources.Commit(ctx, u.Remote, u.Ref)
	}
	d, err := r.Sources.Content(ctx, u.Remote)
	return d.String(), err
}

// base returns the use of an image in the plan, or nil.
func (p *Plan) base(ref string) *planner.BaseUse {
	if i := slices.IndexFunc(p.Graph.Bases, func(b planner.BaseUse) bool { return b.Ref == ref }); i >= 0 {
		return &p.Graph.Bases[i]
	}
	return nil
}

// source returns the use of a git repository or a URL in the graph, or nil.
func source(g *planner.Graph, key string) *planner.SourceUse {
	if i := slices.IndexFunc(g.Sources, func(s planner.SourceUse) bool { return s.Key == key }); i >= 0 {
		return &g.Sources[i]
	}
	return nil
}

// users returns the targets that use a key of the lock directly; nil if the plan does not use it.
func (p *Plan) users(key string) []string {
	if b := p.base(key); b != nil {
		return b.Targets
	}
	if s := source(p.Graph, key); s != nil {
		return s.Targets
	}
	return nil
}
