package affected

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/revision"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// RequestError reports that a comparison cannot be made as requested: there is no git repository, a revision does not
// exist, or its files must be checked out.
type RequestError struct{ Err error }

// Error implements error.
func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RequestError) Unwrap() error { return e.Err }

func requestErrorf(format string, args ...any) error {
	return &RequestError{fmt.Errorf(format, args...)}
}

// Comparison is two revisions of a project. Neither the working tree nor git's index are written.
type Comparison struct {
	dir           string
	until         string // "" is the working tree
	checkout      *revision.Checkout
	before, after *revision.View
	recorder      *revision.Recorder // of the lookups in after
}

// Open reads two revisions from git. dir is the working directory of the project. An empty until is the working tree
// with its untracked files.
func Open(ctx context.Context, dir, since, until string) (_ *Comparison, err error) {
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	checkout, err := revision.Open(ctx, dir)
	if err != nil {
		return nil, requestErrorf("affected compares revisions in git: %w", err)
	}
	c := &Comparison{dir: dir, until: until, checkout: checkout}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.before, err = view(ctx, checkout, since); err != nil {
		return nil, err
	}
	c.after = checkout.WorkingTree()
	if until != "" {
		if c.after, err = view(ctx, checkout, until); err != nil {
			return nil, err
		}
	}
	c.recorder = revision.Record(c.after)
	return c, nil
}

func view(ctx context.Context, checkout *revision.Checkout, name string) (*revision.View, error) {
	commit, err := checkout.Commit(ctx, name)
	if err != nil {
		return nil, requestErrorf("%s is not a revision of this repository: %w", name, err)
	}
	v, err := checkout.View(ctx, commit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return v, nil
}

// Close releases what Open opened. The views may not be used after it.
func (c *Comparison) Close() error { return c.checkout.Close() }

// Dir returns the working directory of the project, without symbolic links.
func (c *Comparison) Dir() string { return c.dir }

// Later returns the view under which the caller loads the project of the later revision.
func (c *Comparison) Later() config.View { return c.recorder }

// Sources is what a Comparison needs from its caller. All of it must be safe for use by several goroutines.
type Sources struct {
	// Base returns a base image that this machine knows, without asking a registry. For another one it reports false;
	// then the image has only Ref, which is ref without a digest, and the Digest in ref, if there is one.
	Base func(ref string, p ocispecs.Platform) (image planner.ResolvedImage, known bool, err error)
	// Fetcher downloads contexts and Dockerfiles that are URLs.
	Fetcher planner.Fetcher
	// Memo keeps plans of the working tree. It may be nil.
	Memo planner.Memo
	// EarlierOptions returns the options that load the project of the earlier revision, without targets.
	EarlierOptions func(config.View) (config.Options, error)
	// Fingerprints returns a digest for each step of a graph, in its order, of all that the result of the step can
	// depend on. It runs and fetches nothing. patch overrides files of the build contexts; it may be nil.
	Fingerprints func(ctx context.Context, g *planner.Graph, patch tree.Patch) ([]digest.Digest, error)
}

// Result is what a comparison found.
type Result struct {
	// Targets are the affected targets, in the order of the later graph. It is not nil.
	Targets []string
	// UnknownBases are the images without a digest in the lock or the store, sorted. If a registry moved such a tag,
	// the comparison does not see it. It is not nil.
	UnknownBases []string
	// EarlierErr is the reason why the earlier revision has no plan. Then every target counts as affected.
	EarlierErr error
}

// Compare names the targets whose fingerprints differ. project is that of the later revision.
func (c *Comparison) Compare(ctx context.Context, project *config.Project, s Sources) (Result, error) {
	if file := unseenFile(project, c.after); file != "" {
		return Result{}, requestErrorf("compose files may include or extend %s, which differs from the one in %s; "+
			"check out %s first", file, c.until, c.until)
	}
	bases := &bases{known: s.Base, unknown: map[string]bool{}}
	r := revisions{Comparison: c, Sources: s, bases: bases}
	memo := s.Memo
	if c.until != "" {
		memo = nil
	}
	graph, err := r.plan(ctx, project, c.recorder, memo)
	if err != nil {
		return Result{}, err
	}
	after, err := r.targets(ctx, graph, c.after)
	if err != nil {
		return Result{}, err
	}
	before, err := r.earlier(ctx, project, graph)
	switch {
	case ctx.Err() != nil: // an interrupt says nothing about the earlier revision
		return Result{}, context.Cause(ctx)
	case err != nil:
		before = Targets{}
	}
	return Result{Targets: after.Changed(before.Fingerprints), UnknownBases: bases.unknownRefs(), EarlierErr: err}, nil
}

// revisions plans the revisions of a comparison and computes the fingerprints of their targets.
type revisions struct {
	*Comparison
	Sources
	bases *bases
}

// earlier returns the targets of the earlier revision, given the project and graph of the later one. If the earlier
// revision gives the same answers to every lookup that led to this graph, the graph is its graph too, and it is
// neither loaded nor planned. Only its contexts are read, where they differ.
func (r revisions) earlier(ctx context.Context, later *config.Project, graph *planner.Graph) (Targets, error) {
	if err := checkSeen(later, r.before); err != nil {
		return Targets{}, err
	}
	if r.recorder.SameIn(r.before) {
		return r.targets(ctx, graph, r.before)
	}
	opts, err := r.EarlierOptions(r.before)
	if err != nil {
		return Targets{}, err
	}
	all, err := config.TargetNames(ctx, opts)
	if err != nil {
		return Targets{}, err
	}
	for _, name := range all { // a target that is new cannot be requested from the earlier revision
		if slices.Contains(later.Requested, name) {
			opts.Targets = append(opts.Targets, name)
		}
	}
	if len(opts.Targets) == 0 {
		return Targets{}, nil
	}
	project, _, err := config.Load(ctx, opts)
	if err != nil {
		return Targets{}, err
	}
	if err := checkSeen(project, r.before); err != nil {
		return Targets{}, err
	}
	if graph, err = r.plan(ctx, project, r.before, nil); err != nil {
		return Targets{}, err
	}
	return r.targets(ctx, graph, r.before)
}

func (r revisions) plan(
	ctx context.Context, p *config.Project, v config.View, memo planner.Memo,
) (*planner.Graph, error) {
	lock, err := config.ReadLockIn(p.Dir, v)
	if err != nil {
		return nil, err
	}
	return planner.Plan(ctx, p, planner.Options{Resolver: r.bases, Fetcher: r.Fetcher, Lock: lock, View: v, Memo: memo})
}

func (r revisions) targets(ctx context.Context, g *planner.Graph, v *revision.View) (Targets, error) {
	var patch tree.Patch // must be nil for the working tree, not a nil *View: then no file is looked up in it
	if v.Differs() {
		patch = v
	}
	steps, err := r.Fingerprints(ctx, g, patch)
	if err != nil {
		return Targets{}, err
	}
	return TargetsOf(g, steps)
}
