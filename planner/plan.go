package planner

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// Options configures one call of Plan.
type Options struct {
	// Resolver resolves base images; nil is enough if every stage is built from scratch or from a context.
	Resolver Resolver
	// Fetcher downloads contexts that are URLs. With nil they stay sources of the graph, and their Dockerfiles must be
	// given in the project.
	Fetcher Fetcher
	// Platform is BUILDPLATFORM, and the platform of a target without platforms. The zero value is the platform of this
	// process.
	Platform ocispecs.Platform
	NoCache  bool // mark every step NoCache, whatever the targets specify
	Jobs     int  // targets planned at once; 0 means two for each CPU
	// Lock pins bases and sources; nil pins none. Frozen refuses an unpinned reference instead of resolving it.
	Lock   *config.Lock
	Frozen bool
	// RefuseRego makes a policy in Rego next to a Dockerfile an error if it applies to the target.
	RefuseRego bool
	// Memo stores the plan for the next run; nil stores nothing.
	Memo Memo
	// KeepGoing makes Plan return a graph of the targets that succeeded in addition to the error of the others.
	KeepGoing bool
	// Warn receives the warnings of targets that cannot be planned; those of others are in the graph. It may be nil.
	Warn func(Warning)
	// View is the file system that directories and Dockerfiles are read from; nil is the disk.
	View config.View
}

// plan is the state of one call of Plan or Call.
type plan struct {
	project *config.Project
	opts    Options
	bases   bases
	files   files
	targets map[string]*planned
	llbCaps apicaps.CapSet // expensive to create, so shared by all targets
	gwCaps  apicaps.CapSet
}

// planned is the planning state of one target.
type planned struct {
	target   *config.Target
	done     chan struct{} // closed when the fields below are set
	results  []*result     // one per platform
	locals   map[string]localDir
	layouts  map[string]localDir
	warnings []Warning
	// file is the Dockerfile as in Location, ownerCheck what it says about unknown owners.
	file       string
	ownerCheck OwnerCheck
	several    bool // an index is requested for one platform too: BUILDKIT_MULTI_PLATFORM
	err        error
}

// Plan returns the graph of the project's requested targets. The same project gives the same bytes, whatever Jobs is
// and wherever the project is checked out, as long as the resolver gives the same answers. Errors are DockerfileError
// and BaseError, or Errors with several of these.
func Plan(ctx context.Context, project *config.Project, opts Options) (*Graph, error) {
	stored := newPlan(ctx, project, opts)
	defer stored.bases.end()
	if g := stored.loadMemo(ctx); g != nil {
		g.Files = stored.files.paths()
		return g, nil
	}
	p := newPlan(ctx, project, opts)
	defer p.bases.end()
	targets, err := p.order()
	if err != nil {
		return nil, err
	}
	err = p.run(ctx, targets)
	p.warnFailed(targets)
	if err == nil {
		err = p.checkBlocks()
	}
	if err != nil && (!opts.KeepGoing || ctx.Err() != nil) {
		return nil, err
	}
	g, mergeErr := p.merge(targets)
	if mergeErr != nil {
		return nil, mergeErr
	}
	g.Files = p.files.paths()
	if err == nil {
		p.storeMemo(g, targets)
	}
	return g, err
}

// warnFailed reports the warnings of the targets that failed, each once. They may be the reason: check=error=true.
func (p *plan) warnFailed(targets []*config.Target) {
	seen := map[Warning]bool{}
	for _, t := range targets {
		d := p.targets[t.Name]
		if p.opts.Warn == nil || d.err == nil {
			continue
		}
		sortWarnings(d.warnings)
		for _, w := range d.warnings {
			target := w.Target
			w.Target = "" // targets that share a Dockerfile share its warnings
			if !seen[w] {
				seen[w] = true
				w.Target = target
				p.opts.Warn(w)
			}
		}
	}
}

func newPlan(ctx context.Context, project *config.Project, opts Options) *plan {
	if opts.Platform.OS == "" {
		opts.Platform = platforms.DefaultSpec()
	}
	opts.Platform = platforms.Normalize(opts.Platform)
	if opts.View == nil {
		opts.View = config.Disk{}
	}
	if opts.Jobs <= 0 {
		opts.Jobs = 2 * runtime.NumCPU()
	}
	ctx, stop := context.WithCancel(ctx)
	return &plan{
		project: project,
		opts:    opts,
		bases: bases{
			ctx: ctx, stop: stop, resolver: opts.Resolver, lock: opts.Lock, frozen: opts.Frozen,
			calls: map[string]*baseCall{},
			used:  map[string]*BaseUse{}, sources: map[string]*SourceUse{},
		},
		files:   files{read: map[string]*fileRead{}, dirs: map[string]string{}, view: opts.View},
		targets: map[string]*planned{},
		llbCaps: pb.Caps.CapSet(pb.Caps.All()),
		gwCaps:  gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
}

// run plans each target. Targets are sorted so that linked ones come first. A target that waits for a linked one
// therefore waits for a target that has already started, so run cannot deadlock.
func (p *plan) run(ctx context.Context, targets []*config.Target) error {
	for _, t := range targets {
		p.targets[t.Name] = &planned{target: t, done: make(chan struct{})}
	}
	queue := make(chan *planned)
	var workers sync.WaitGroup
	for range min(p.opts.Jobs, len(targets)) { // few goroutines with grown stacks are cheaper than one per target
		workers.Go(func() {
			for d := range queue {
				d.err = p.planTarget(ctx, d)
				close(d.done)
			}
		})
	}
	for _, t := range targets {
		queue <- p.targets[t.Name]
	}
	close(queue)
	workers.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("plan: %w", context.Cause(ctx))
	}
	var errs []error
	for _, t := range targets {
		if _, ok := p.targets[t.Name].err.(*linkError); !ok {
			errs = append(errs, p.targets[t.Name].err)
		}
	}
	return join(errs)
}

// checkBlocks returns an error for each base that lacks a platform which its base block requires.
func (p *plan) checkBlocks() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(p.project.Bases)) {
		block := p.project.Bases[name]
		named, err := reference.ParseNormalizedNamed(block.Image)
		if err != nil {
			continue // an invalid reference is never used
		}
		use := p.bases.used[reference.TagNameOnly(named).String()]
		if use == nil || use.Platforms == nil {
			continue
		}
		for _, platform := range block.Platforms {
			if !hasPlatform(use.Platforms, platform) {
				err := fmt.Errorf("base %s requires platform %s, but %s has only %s",
					name, platform, use.Ref, strings.Join(use.Platforms, ", "))
				errs = append(errs, &DockerfileError{
					Target: use.Targets[0], File: block.Range.File, Line: block.Range.Line, Err: err,
				})
			}
		}
	}
	return join(errs)
}

// hasPlatform reports whether an image with the platforms all can be used for a platform.
func hasPlatform(all []string, platform string) bool {
	want, err := platforms.Parse(platform)
	if err != nil {
		return false
	}
	match := platforms.Only(want)
	return slices.ContainsFunc(all, func(s string) bool {
		has, err := platforms.Parse(s)
		return err == nil && match.Match(has)
	})
}

// platformsOf returns the platforms of a target, normalized and without duplicates.
func (p *plan) platformsOf(t *config.Target) ([]ocispecs.Platform, error) {
	var out []ocispecs.Platform
	seen := map[string]bool{}
	for _, s := range t.Platforms {
		for _, s := range strings.Split(s, ",") {
			if s = strings.TrimSpace(s); s == "" {
				continue
			}
			parsed, err := platforms.Parse(s)
			if s == "local" {
				parsed, err = p.opts.Platform, nil
			}
			if err != nil {
				return nil, p.targetError(t, "platforms",
					fmt.Errorf("unknown platform %q; use os/arch, such as linux/arm64", s))
			}
			parsed = platforms.Normalize(parsed)
			if id := platforms.FormatAll(parsed); !seen[id] {
				seen[id] = true
				out = append(out, parsed)
			}
		}
	}
	if len(out) == 0 {
		out = append(out, p.opts.Platform)
	}
	return out, nil
}

// recoverTo turns a panic of the frontend or the resolver into an error. The caller must defer it.
func recoverTo(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("the Dockerfile frontend panicked: %v", r)
	}
}

// requestedFirst returns the successfully planned targets: the requested ones in order, then those that are only
// linked. requested is the number of the former.
func (p *plan) requestedFirst(targets []*config.Target) (out []*planned, requested int) {
	seen := map[string]bool{}
	for i, name := range slices.Concat(p.project.Requested, names(targets)) {
		if seen[name] || p.targets[name].err != nil {
			continue
		}
		seen[name] = true
		out = append(out, p.targets[name])
		if i < len(p.project.Requested) {
			requested++
		}
	}
	return out, requested
}

func names(targets []*config.Target) []string {
	var out []string
	for _, t := range targets {
		out = append(out, t.Name)
	}
	return out
}

// mergeDirs adds directories to a map under their names in the graph.
func mergeDirs(into map[string]Local, dirs map[string]localDir) {
	for d := range maps.Values(dirs) {
		local := Local{Dir: d.dir}
		if d.url != "" {
			local.URL = redacted(d.url)
		}
		into[d.name] = local
	}
}
