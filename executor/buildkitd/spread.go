package buildkitd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/planner"
)

// Spreading a graph over daemons. The problem: targets share steps, and a step that runs on two daemons runs twice; but
// all targets on one daemon would leave the others idle. The idea is greedy. Images go, in the order of the graph, to
// the builder whose load relative to its weight stays lowest, where a load counts only the steps that the builder does
// not have yet. So a target costs little where its shared steps are, and targets with common steps stay together until
// that builder has its share (TestSharedStepsStayTogether, TestWeights). Two invariants hold. An image goes only to a
// builder that can run its commands, a native one if any (TestNativeBuildersArePreferred). And every image is finished
// by one builder: a lost builder keeps its finished images, and the others get the rest at once. Without the second
// invariant, a lost connection would hang the run or be reported as a failed step. The cost of a lost builder is that
// its unfinished images start from the caches of the others.

// Relative costs of steps: commands take long, other steps do not.
const (
	costExec  = 100
	costFile  = 5
	costOther = 1
)

// work is what a builder was assigned in a run.
type work struct {
	has  map[*planner.Step]bool
	load int // sum of the costs of has
}

// all builds every image. It returns the failures of steps, in the order in which they happened, and an error if the
// run could not continue.
func (r *run) all(ctx context.Context) ([]error, error) {
	for _, text := range r.caches.notes {
		r.emitNote(text)
	}
	ctx, r.cancel = context.WithCancelCause(ctx)
	defer r.cancel(nil)
	err := r.spread(ctx, r.graph.Images)
	if errors.Is(err, errStopped) {
		err = nil // the failures of steps have the reason
	}
	return distinct(r.failures), err
}

// spread distributes images and waits for all of them.
func (r *run) spread(ctx context.Context, images []*planner.Image) error {
	if len(images) == 0 {
		return nil
	}
	shares, err := r.share(images)
	if err != nil {
		r.cancel(err)
		return err
	}
	var g errgroup.Group
	for b, share := range shares {
		g.Go(func() error { return r.assign(ctx, b, share) })
	}
	return g.Wait()
}

// assign lets a builder build images. When the builder is lost, the others get its unfinished images at once.
func (r *run) assign(ctx context.Context, b *builder, images []*planner.Image) error {
	part := newBatch(r, b, images)
	watched, stop := b.watched(ctx)
	err := part.do(watched)
	stop()
	if err != nil && ctx.Err() == nil && b.lost(ctx) {
		return r.replace(ctx, part, err)
	}
	r.record(part)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx) // cancelled by the user, or by an error elsewhere
	case !errors.Is(err, errStopped):
		err = r.fault(part.builder, err)
	}
	r.cancel(err)
	return err
}

// record adds the finished images and the failures of a batch to the run.
func (r *run) record(part *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.results, part.finished())
	r.failures = append(r.failures, part.order...)
}

// replace spreads the unfinished images of a lost builder over the others. It drops the failures of the batch, since
// losing the connection may have caused them.
func (r *run) replace(ctx context.Context, part *batch, err error) error {
	why := &plainError{plain(err).Error(), err, true}
	lost := &Error{part.builder.Address, fmt.Errorf("connection lost: %w", why)}
	part.builder.leave(lost)
	part.order = nil
	r.record(part)
	r.status.forget(part.builder.defs)
	if len(alive(r.builders)) == 0 {
		lost.Err = fmt.Errorf("%w; see the daemon's log, and run the build again", lost.Err)
		r.cancel(lost)
		return lost
	}
	r.emitNote(lost.Error() + "; continuing on the other engines")
	done := part.finished()
	rest := slices.DeleteFunc(slices.Clone(part.images), func(m *planner.Image) bool { return done[m] != nil })
	return r.spread(ctx, rest)
}

// fault returns the error of a batch on a builder that answers, if it is not of a step. Errors of Recompress and
// PassedTests name the builder too, although they are local.
func (r *run) fault(b *builder, err error) error {
	var own *storeError
	if errors.As(err, &own) {
		return fmt.Errorf("store blobs from engine %s: %w", b.Address, own.error)
	}
	return &Error{b.Address, plain(err)}
}

// share assigns every image to a builder that can run it, see above.
func (r *run) share(images []*planner.Image) (map[*builder][]*planner.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	shares := map[*builder][]*planner.Image{}
	for _, image := range images {
		fits, err := r.fits(image)
		if err != nil {
			return nil, err
		}
		steps := closure(image)
		var best *builder
		var bestLoad int
		for _, b := range fits {
			after := b.work.with(steps)
			// This compares after/weight without division.
			if best == nil || after*best.weight() < bestLoad*b.weight() {
				best, bestLoad = b, after
			}
		}
		best.work.add(steps)
		shares[best] = append(shares[best], image)
	}
	return shares, nil
}

// with returns the load if steps were added.
func (w *work) with(steps map[*planner.Step]bool) int {
	load := w.load
	for s := range steps {
		if !w.has[s] {
			load += cost(s)
		}
	}
	return load
}

func (w *work) add(steps map[*planner.Step]bool) {
	w.load = w.with(steps)
	if w.has == nil {
		w.has = map[*planner.Step]bool{}
	}
	maps.Copy(w.has, steps)
}

func (b *builder) weight() int { return max(b.Weight, 1) }

func cost(s *planner.Step) int {
	switch {
	case s.Op.GetExec() != nil:
		return costExec
	case s.Op.GetFile() != nil:
		return costFile
	}
	return costOther
}

// closure returns the steps that an image and its SBOM need.
func closure(image *planner.Image) map[*planner.Step]bool {
	seen := map[*planner.Step]bool{}
	var add func(s *planner.Step)
	add = func(s *planner.Step) {
		if s == nil || seen[s] {
			return
		}
		seen[s] = true
		for _, in := range s.Inputs {
			add(in.Step)
		}
	}
	add(image.Root.Step)
	if image.SBOM != nil {
		add(image.SBOM.Step)
	}
	return seen
}

// choose returns the first builder that fits an image, regardless of load.
func (r *run) choose(image *planner.Image) (*builder, error) {
	fits, err := r.fits(image)
	if err != nil {
		return nil, err
	}
	return fits[0], nil
}

// fits returns the builders that can run an image's commands: the native ones, or else those that can emulate it.
func (r *run) fits(image *planner.Image) ([]*builder, error) {
	needs := commandPlatforms(image)
	var native, able []*builder
	for _, b := range alive(r.builders) {
		switch {
		case len(needs) == 0 || all(needs, b.isNative):
			native = append(native, b)
		case all(needs, b.runs):
			able = append(able, b)
		}
	}
	switch {
	case len(native) > 0:
		return native, nil
	case len(able) > 0:
		return able, nil
	}
	return nil, r.noneFits(image, needs)
}

// noneFits returns an error that lists the builders and their platforms.
func (r *run) noneFits(image *planner.Image, needs []ocispecs.Platform) error {
	var have []string
	for _, b := range r.builders {
		if err := b.left(); err != nil {
			have = append(have, err.Error())
			continue
		}
		have = append(have, b.Address+" runs "+strings.Join(names(b.platforms), ", "))
	}
	return &Error{r.builders[0].Address, fmt.Errorf("target %s: no engine supports platform %s: %s",
		image.Target, strings.Join(names(needs), ", "), strings.Join(have, "; "))}
}

func names(list []ocispecs.Platform) []string {
	var out []string
	for _, p := range list {
		out = append(out, platforms.Format(p))
	}
	return out
}

func all[T any](list []T, ok func(T) bool) bool {
	return !slices.ContainsFunc(list, func(x T) bool { return !ok(x) })
}

// isNative reports whether a platform is native to the builder: one that the project file names, or else the first one
// that the daemon lists. A builder that lists no platforms counts as native for all.
func (b *builder) isNative(p ocispecs.Platform) bool {
	if b.own {
		return b.runs(p)
	}
	return len(b.platforms) == 0 || platforms.Only(b.platforms[0]).Match(p)
}

// runs reports whether the builder can run commands of a platform.
func (b *builder) runs(p ocispecs.Platform) bool {
	return slices.ContainsFunc(b.platforms, func(q ocispecs.Platform) bool { return platforms.Only(q).Match(p) })
}

// commandPlatforms returns the platforms of the commands that an image and its tests need.
func commandPlatforms(image *planner.Image) []ocispecs.Platform {
	var out []ocispecs.Platform
	steps := closure(image)
	for _, t := range image.Tests {
		steps[t] = true
	}
	for s := range steps {
		p := s.Op.GetPlatform()
		if s.Op.GetExec() == nil || p == nil {
			continue
		}
		platform := platforms.Normalize(ocispecs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
		equal := func(q ocispecs.Platform) bool { return platforms.Format(q) == platforms.Format(platform) }
		if !slices.ContainsFunc(out, equal) {
			out = append(out, platform)
		}
	}
	return out
}
