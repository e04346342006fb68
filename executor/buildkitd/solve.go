package buildkitd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// maxSolves is how many images are asked for at once; their steps wait for each other in the daemon.
const maxSolves = 256

// product names this client to daemons.
const product = "bake"

// shape is what layers are to look like; images of one shape come back together.
type shape struct {
	form  executor.LayerForm
	epoch int64 // seconds
}

// attrs are the exporter's attributes for a shape. Layers come as OCI ones: the image that they go into names their type.
func (s shape) attrs() map[string]string {
	a := map[string]string{
		"tar": "false", string(exptypes.OptKeyOCITypes): "true",
		string(exptypes.OptKeySourceDateEpoch):     strconv.FormatInt(s.epoch, 10),
		string(exptypes.OptKeyRewriteTimestamp):    strconv.FormatBool(!s.form.KeepTimes),
		string(exptypes.OptKeyForceCompression):    strconv.FormatBool(s.form.Force),
		string(exptypes.OptKeyPreferNondistLayers): "false",
	}
	if s.form.Compression != "" {
		a[string(exptypes.OptKeyLayerCompression)] = s.form.Compression
	}
	if s.form.Level != 0 {
		a[string(exptypes.OptKeyCompressionLevel)] = strconv.Itoa(s.form.Level)
	}
	return a
}

// batch is what one builder has to do.
type batch struct {
	run     *run
	builder *builder
	images  []*planner.Image

	mu       sync.Mutex
	failures map[*planner.Image]error
	order    []error // of failures, as they happened
	// unclear are the images whose errors name no step; they are in failures too.
	unclear map[*planner.Image]bool
}

// do builds all images of the batch: first all together, with the layers of the most wanted shape, then their layers in
// each other shape. An error is about the builder; what is wrong with steps is in failures.
func (b *batch) do(ctx context.Context) (map[*planner.Image]*made, error) {
	b.failures, b.unclear = map[*planner.Image]error{}, map[*planner.Image]bool{}
	results := map[*planner.Image]*made{}
	for _, image := range b.images {
		results[image] = &made{builder: b.builder, layers: map[shape][]layer{}}
	}
	shapes := b.shapes()
	if rest := b.without(shapes); len(rest) > 0 {
		if err := b.solve(ctx, rest, nil, results); err != nil {
			return nil, err
		}
	}
	for _, s := range sortedShapes(shapes) {
		if err := b.solve(ctx, shapes[s], &s, results); err != nil {
			return nil, err
		}
	}
	if err := b.test(ctx, results); err != nil {
		return nil, err
	}
	for image := range b.failures {
		delete(results, image)
	}
	return results, nil
}

// shapes are the images that are wanted in each shape.
func (b *batch) shapes() map[shape][]*planner.Image {
	all := map[shape][]*planner.Image{}
	for _, image := range b.images {
		for _, f := range b.run.forms[image.Target] {
			s := shape{f, b.run.epoch(image).Unix()}
			all[s] = append(all[s], image)
		}
	}
	return all
}

// without are the images of which no layers are wanted.
func (b *batch) without(shapes map[shape][]*planner.Image) []*planner.Image {
	shaped := map[*planner.Image]bool{}
	for _, images := range shapes {
		for _, image := range images {
			shaped[image] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(b.images), func(m *planner.Image) bool { return shaped[m] })
}

func sortedShapes(shapes map[shape][]*planner.Image) []shape {
	return slices.SortedFunc(maps.Keys(shapes), func(x, y shape) int {
		if d := len(shapes[y]) - len(shapes[x]); d != 0 {
			return d
		}
		return slices.Compare([]string{fmt.Sprint(x)}, []string{fmt.Sprint(y)})
	})
}

// epoch is what times in an image are set to.
func (r *run) epoch(image *planner.Image) time.Time {
	switch {
	case image.Epoch != nil:
		return *image.Epoch
	case r.opts.Epoch != nil:
		return *r.opts.Epoch
	}
	return executor.DefaultEpoch()
}

// solve builds images in one build of the daemon and, for a shape, takes their layers.
func (b *batch) solve(ctx context.Context, images []*planner.Image, s *shape, results map[*planner.Image]*made) error {
	images = slices.DeleteFunc(slices.Clone(images), func(m *planner.Image) bool { return b.failures[m] != nil })
	opt := b.options(images)
	if s != nil {
		opt.Exports = []client.ExportEntry{{Type: client.ExporterOCI, Attrs: s.attrs(), OutputStore: &blobStore{blobs: b.run.engine.opts.Blobs}}}
	}
	var built []*planner.Image
	var stepErr error
	res, err := b.builder.build(ctx, b.run.status, opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		all, err := b.evaluate(ctx, c, images)
		if err != nil {
			stepErr = err
			return nil, err
		}
		result := gateway.NewResult()
		if s == nil {
			return result, nil
		}
		var refs []gateway.Reference
		for i, image := range images {
			if b.failures[image] == nil {
				built, refs = append(built, image), append(refs, all[i])
			}
		}
		return result, collect(result, built, refs)
	})
	b.clear()
	switch {
	case stepErr != nil:
		return stepErr
	case err != nil:
		return err
	case s == nil || len(built) == 0:
		return nil
	}
	return b.take(res, built, *s, results)
}

// options are those of every build of the batch.
func (b *batch) options(images []*planner.Image) client.SolveOpt {
	opt := client.SolveOpt{
		SharedSession: b.builder.session, SessionPreInitialized: true, AllowedEntitlements: entitlements(b.run.opts.Allow),
	}
	for _, image := range images {
		opt.CacheImports = addCaches(opt.CacheImports, b.run.engine.opts.CacheFrom[image.Target])
		opt.CacheExports = addCaches(opt.CacheExports, b.run.engine.opts.CacheTo[image.Target])
	}
	return opt
}

func addCaches(all []client.CacheOptionsEntry, more []config.Attrs) []client.CacheOptionsEntry {
	for _, a := range more {
		attrs := maps.Clone(map[string]string(a))
		kind := attrs["type"]
		delete(attrs, "type")
		known := slices.ContainsFunc(all, func(e client.CacheOptionsEntry) bool { return e.Type == kind && maps.Equal(e.Attrs, attrs) })
		if !known {
			all = append(all, client.CacheOptionsEntry{Type: kind, Attrs: attrs})
		}
	}
	return all
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
func (b *batch) evaluate(ctx context.Context, c gateway.Client, images []*planner.Image) ([]gateway.Reference, error) {
	refs := make([]gateway.Reference, len(images))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxSolves)
	for i, image := range images {
		g.Go(func() error {
			res, err := c.Solve(gctx, gateway.SolveRequest{Definition: b.builder.defs.of(image.Root), Evaluate: true})
			if err != nil {
				return b.failed(gctx, image, err)
			}
			refs[i], err = res.SingleRef()
			return err
		})
	}
	return refs, g.Wait()
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
func collect(result *gateway.Result, images []*planner.Image, refs []gateway.Reference) error {
	var list exptypes.Platforms
	for i, image := range images {
		id := strconv.Itoa(i)
		list.Platforms = append(list.Platforms, exptypes.Platform{ID: id, Platform: image.Platform})
		result.AddRef(id, refs[i])
		result.AddMeta(exptypes.ExporterImageConfigKey+"/"+id, image.Config)
		result.AddMeta(exptypes.ExporterImageBaseConfigKey+"/"+id, image.Config)
	}
	return addPlatforms(result, list)
}
