package buildkitd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

const (
	// maxSolves is how many images of a build are asked for at once; their steps wait for each other in the daemon.
	maxSolves = 256
	// maxBuilds is how many builds one daemon has of a run at once.
	maxBuilds = 16
	// product names this client to daemons.
	product = "bake"
)

// batch is what one builder has to do.
type batch struct {
	run     *run
	builder *builder
	images  []*planner.Image

	mu       sync.Mutex
	results  map[*planner.Image]*made
	failures map[*planner.Image]error
	order    []error // of failures, as they happened
	// unclear are the images whose errors name no step; they are in failures too.
	unclear map[*planner.Image]bool
}

func newBatch(r *run, b *builder, images []*planner.Image) *batch {
	return &batch{
		run: r, builder: b, images: images, results: map[*planner.Image]*made{}, failures: map[*planner.Image]error{},
		unclear: map[*planner.Image]bool{},
	}
}

// job is one build of the daemon.
type job struct {
	layers  bool // are wanted
	exports []client.CacheOptionsEntry
	images  []*planner.Image
}

// do builds all images of the batch, the builds side by side, since the daemon does a step once that several of them need,
// and tests them. An error is about the builder; what is wrong with steps is in failures.
func (b *batch) do(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxBuilds)
	for _, j := range b.jobs() {
		g.Go(func() error { return b.solve(gctx, j) })
	}
	err := g.Wait()
	b.clear()
	if err == nil {
		err = b.test(ctx)
	}
	return err
}

// jobs are the builds of the batch, in the order of its images: one for all whose layers are to come back, one for the others;
// images that fill a cache of their own have one for each, so that none gets what is another's.
func (b *batch) jobs() []*job {
	var all []*job
	at := map[string]*job{}
	for _, image := range b.images {
		exports, layers := b.run.caches.exports[image.Target], len(b.run.forms[image.Target]) > 0
		key := fmt.Sprint(layers, exports)
		if at[key] == nil {
			at[key] = &job{layers: layers, exports: exports}
			all = append(all, at[key])
		}
		at[key].images = append(at[key].images, image)
	}
	return all
}

// solve builds the images of a job in one build of the daemon and takes their layers.
func (b *batch) solve(ctx context.Context, j *job) error {
	opt := b.builder.options(b.run)
	opt.CacheExports = j.exports
	if j.layers {
		opt.Exports = []client.ExportEntry{{Type: client.ExporterOCI, Attrs: exportAttrs(), OutputStore: b.builder.store}}
	}
	var built []*planner.Image
	var stopped error
	res, err := b.builder.build(ctx, b.run.status, opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		refs, err := b.evaluate(ctx, c, j.images)
		if err != nil {
			stopped = err
			return nil, err
		}
		built = b.good(j.images)
		result := gateway.NewResult()
		if !j.layers && len(j.exports) == 0 {
			return result, nil
		}
		return result, collect(result, built, refs)
	})
	switch {
	case errors.Is(stopped, errStopped):
		return stopped
	case err != nil:
		return b.builder.store.instead(err)
	case j.layers && len(built) > 0:
		return b.take(ctx, res, built)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, image := range built {
		b.made(image)
	}
	return nil
}

// good are the images that did not fail.
func (b *batch) good(images []*planner.Image) []*planner.Image {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(images), func(m *planner.Image) bool { return b.failures[m] != nil })
}

// made is what is known of an image; b.mu is held.
func (b *batch) made(image *planner.Image) *made {
	if b.results[image] == nil {
		b.results[image] = &made{builder: b.builder, layers: map[executor.LayerEncoding][]layer{}}
	}
	return b.results[image]
}

// finished are the images of which all that is wanted is here.
func (b *batch) finished() map[*planner.Image]*made {
	all := map[*planner.Image]*made{}
	for image, m := range b.results {
		if b.failures[image] == nil && len(m.layers) == len(b.run.forms[image.Target]) {
			all[image] = m
		}
	}
	return all
}

// options are those of every build of a builder.
func (b *builder) options(r *run) client.SolveOpt {
	return client.SolveOpt{SharedSession: b.session, SessionPreInitialized: true, AllowedEntitlements: entitlements(r.opts.Allow)}
}

// build runs one build of the daemon in the builder's session.
func (b *builder) build(ctx context.Context, s *status, opt client.SolveOpt, f gateway.BuildFunc) (*client.SolveResponse, error) {
	updates := make(chan *client.SolveStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.follow(b.defs, updates)
	}()
	res, err := b.client.Build(ctx, opt, product, f, updates)
	<-done
	return res, err
}

// evaluate builds images side by side. It notes what failed; an error ends the build: the first failure, unless the run
// keeps going, or what is no fault of a step.
func (b *batch) evaluate(ctx context.Context, c gateway.Client, images []*planner.Image) (map[*planner.Image]gateway.Reference, error) {
	refs := make([]gateway.Reference, len(images))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxSolves)
	for i, image := range images {
		g.Go(func() error {
			res, err := c.Solve(gctx, b.builder.request(b.run, image, image.Root))
			if err != nil {
				return b.failed(gctx, image, err)
			}
			refs[i], err = res.SingleRef()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := make(map[*planner.Image]gateway.Reference, len(images))
	for i, image := range images {
		all[image] = refs[i]
	}
	return all, nil
}

// request asks a daemon for an edge of an image's graph.
func (b *builder) request(r *run, image *planner.Image, e planner.Edge) gateway.SolveRequest {
	return gateway.SolveRequest{
		Definition: b.defs.of(e), Evaluate: true, CacheImports: r.caches.imports[image.Target],
	}
}

// failed notes that an image could not be built.
func (b *batch) failed(ctx context.Context, image *planner.Image, err error) error {
	if ctx.Err() != nil {
		return err // another one failed before
	}
	explained := b.explain(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case explained != nil:
		b.note(image, explained)
	case isDouble(err):
		b.failures[image], b.unclear[image] = err, true
		return nil
	default:
		return err
	}
	if b.run.opts.KeepGoing {
		return nil
	}
	return errStopped
}

// note keeps a failure; b.mu is held, or nothing runs.
func (b *batch) note(image *planner.Image, err error) {
	b.failures[image] = err
	if !slices.ContainsFunc(b.order, func(e error) bool { return e.Error() == err.Error() }) {
		b.order = append(b.order, err)
	}
}

// isDouble knows the error that daemons give in the place of a step's own when two failed steps have an input in common:
// they stumble over what they keep of it.
func isDouble(err error) bool { return strings.Contains(err.Error(), "already released reference") }

// clear gives images whose errors name no step the errors of the steps that the daemon's status calls failed.
func (b *batch) clear() {
	for image := range b.unclear {
		for step := range closure(image) {
			if err := b.run.status.failure(step); err != nil {
				b.note(image, b.stepFailed(step, err))
			}
		}
		if isDouble(b.failures[image]) {
			b.note(image, &Error{b.builder.Address, fmt.Errorf("target %s: %w", image.Target, b.failures[image])})
		}
	}
	clear(b.unclear)
}

// errStopped says that a build was ended since one of its steps failed.
var errStopped = errors.New("stopped since a step failed")

// collect makes one result of all images: to the exporter they are so many platforms of one image, each with its own
// config, so that all layers come in one go.
func collect(result *gateway.Result, images []*planner.Image, refs map[*planner.Image]gateway.Reference) error {
	var list exptypes.Platforms
	for i, image := range images {
		id := strconv.Itoa(i)
		list.Platforms = append(list.Platforms, exptypes.Platform{ID: id, Platform: image.Platform})
		result.AddRef(id, refs[image])
		result.AddMeta(exptypes.ExporterImageConfigKey+"/"+id, image.Config)
	}
	return addPlatforms(result, list)
}
