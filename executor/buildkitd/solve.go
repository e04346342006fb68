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
	// maxSolves bounds the images of one build that are solved at once. The daemon orders their steps.
	maxSolves = 256
	// maxBuilds bounds the builds of one run on one daemon.
	maxBuilds = 16
	// product is the name of this client for daemons.
	product = "bake"
)

// batch is the work of one builder: images to build and test.
type batch struct {
	run     *run
	builder *builder
	images  []*planner.Image

	mu       sync.Mutex
	results  map[*planner.Image]*builtImage
	failures map[*planner.Image]error
	order    []error // the failures, as they happened
	// unexplained are the images whose errors name no step. They are in failures too.
	unexplained map[*planner.Image]bool
}

func newBatch(r *run, b *builder, images []*planner.Image) *batch {
	return &batch{
		run: r, builder: b, images: images,
		results: map[*planner.Image]*builtImage{}, failures: map[*planner.Image]error{},
		unexplained: map[*planner.Image]bool{},
	}
}

// job is one build of the daemon.
type job struct {
	layers  bool // export the layers
	exports []client.CacheOptionsEntry
	images  []*planner.Image
}

// do builds and tests all images of the batch. Its builds run in parallel: the daemon runs a step that several builds
// need only once. Failures of steps are in failures. The error is errStopped if one of them ended the build; otherwise
// it is about the builder, the local store (a storeError) or the record of passed tests.
func (b *batch) do(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxBuilds)
	for _, j := range b.jobs() {
		g.Go(func() error { return b.solve(gctx, j) })
	}
	err := g.Wait()
	b.explainHidden()
	if err == nil {
		err = b.test(ctx)
	}
	return err
}

// jobs returns the builds of the batch, in the order of its images: one for all images whose layers are exported, one
// for the others, and one for each set of cache exports, so that no cache gets the layers of another target.
func (b *batch) jobs() []*job {
	var all []*job
	at := map[string]*job{}
	for _, image := range b.images {
		exports, layers := b.run.caches.exports[image.Target], len(b.run.encodings[image.Target]) > 0
		key := fmt.Sprint(layers, exports)
		if at[key] == nil {
			at[key] = &job{layers: layers, exports: exports}
			all = append(all, at[key])
		}
		at[key].images = append(at[key].images, image)
	}
	return all
}

// solve builds the images of a job in one build of the daemon and imports their layers.
func (b *batch) solve(ctx context.Context, j *job) error {
	opt := b.builder.options(b.run)
	opt.CacheExports = j.exports
	if j.layers {
		opt.Exports = []client.ExportEntry{{
			Type: client.ExporterOCI, Attrs: exportAttrs(), OutputStore: b.builder.store,
		}}
	}
	var built []*planner.Image
	var stopped error
	build := func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		refs, err := b.evaluate(ctx, c, j.images)
		if err != nil {
			stopped = err
			return nil, err
		}
		built = b.succeeded(j.images)
		result := gateway.NewResult()
		if !j.layers && len(j.exports) == 0 {
			return result, nil
		}
		return result, collect(result, built, refs)
	}
	res, err := b.builder.build(ctx, b.run.status, opt, build)
	switch {
	case errors.Is(stopped, errStopped):
		return stopped
	case err != nil:
		return b.builder.store.cause(err)
	case j.layers && len(built) > 0:
		return b.importImages(ctx, res, built)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, image := range built {
		b.result(image)
	}
	return nil
}

// succeeded returns the images that have not failed.
func (b *batch) succeeded(images []*planner.Image) []*planner.Image {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(images), func(m *planner.Image) bool { return b.failures[m] != nil })
}

// result returns the entry of an image, and adds it if needed. The caller holds b.mu.
func (b *batch) result(image *planner.Image) *builtImage {
	if b.results[image] == nil {
		b.results[image] = &builtImage{builder: b.builder, layers: map[executor.LayerEncoding][]layer{}}
	}
	return b.results[image]
}

// finished returns the images that are complete: built, without a failure, and with layers in every encoding.
func (b *batch) finished() map[*planner.Image]*builtImage {
	all := map[*planner.Image]*builtImage{}
	for image, m := range b.results {
		if b.failures[image] == nil && len(m.layers) == len(b.run.encodings[image.Target]) {
			all[image] = m
		}
	}
	return all
}

// options returns the options of every build on a builder.
func (b *builder) options(r *run) client.SolveOpt {
	return client.SolveOpt{
		SharedSession: b.session, SessionPreInitialized: true, AllowedEntitlements: entitlements(r.opts.Allow),
	}
}

// build runs one build of the daemon in the builder's session.
func (b *builder) build(
	ctx context.Context, s *status, opt client.SolveOpt, f gateway.BuildFunc,
) (*client.SolveResponse, error) {
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

// evaluate builds images in parallel and records failures. An error ends the build: the first failure, unless the run
// keeps going, or an error that is not about a step.
func (b *batch) evaluate(
	ctx context.Context, c gateway.Client, images []*planner.Image,
) (map[*planner.Image]gateway.Reference, error) {
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

// request returns the request to build an edge of an image's graph.
func (b *builder) request(r *run, image *planner.Image, e planner.Edge) gateway.SolveRequest {
	return gateway.SolveRequest{
		Definition: b.defs.of(e), Evaluate: true, CacheImports: r.caches.imports[image.Target],
	}
}

// failed records the error of an image. It returns an error if the build must stop.
func (b *batch) failed(ctx context.Context, image *planner.Image, err error) error {
	if ctx.Err() != nil {
		return err // cancelled, because another image failed
	}
	explained := b.explain(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case explained != nil:
		b.addFailure(image, explained)
	case hidesCause(err):
		b.failures[image], b.unexplained[image] = err, true
		return nil
	default:
		return err
	}
	if b.run.opts.KeepGoing {
		return nil
	}
	return errStopped
}

// addFailure records the failure of an image. The caller holds b.mu, or nothing runs.
func (b *batch) addFailure(image *planner.Image, err error) {
	b.failures[image] = err
	if !slices.ContainsFunc(b.order, func(e error) bool { return e.Error() == err.Error() }) {
		b.order = append(b.order, err)
	}
}

// hidesCause recognises the error that a daemon returns instead of a step's own error when two failed steps share an
// input: the daemon releases its reference to the input twice.
func hidesCause(err error) bool { return strings.Contains(err.Error(), "already released reference") }

// explainHidden replaces errors that name no step by the errors of the steps that failed according to the daemon's
// status.
func (b *batch) explainHidden() {
	for image := range b.unexplained {
		for step := range closure(image) {
			if err := b.run.status.failure(step); err != nil {
				b.addFailure(image, b.stepFailed(step, err))
			}
		}
		if hidesCause(b.failures[image]) {
			b.addFailure(image, &Error{b.builder.Address, fmt.Errorf("target %s: %w", image.Target, b.failures[image])})
		}
	}
	clear(b.unexplained)
}

// errStopped reports that a build was stopped because one of its steps failed.
var errStopped = errors.New("stopped because a step failed")

// collect adds all images to one result. For the exporter they are platforms of one image, each with its own config, so
// that one export sends all layers.
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
