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

// Costs of steps beside each other, when work is shared out: commands take long, the rest does not.
const (
	costExec  = 100
	costFile  = 5
	costOther = 1
)

// work is what a builder was given in a run.
type work struct {
	has  map[*planner.Step]bool
	load int // cost of has
}

// all builds every image. The failures are those of steps, in the order in which they happened; the error says that the
// run could not go on.
func (r *run) all(ctx context.Context) ([]error, error) {
	for _, text := range r.caches.notes {
		r.note(text)
	}
	ctx, r.cancel = context.WithCancelCause(ctx)
	defer r.cancel(nil)
	err := r.spread(ctx, r.graph.Images)
	if errors.Is(err, errStopped) {
		err = nil // the failures of steps say why
	}
	return distinct(r.failures), err
}

// spread shares images out and waits for all of them.
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
		g.Go(func() error { return r.give(ctx, b, share) })
	}
	return g.Wait()
}

// give lets a builder build images. When it is lost, what it had goes to the others at once.
func (r *run) give(ctx context.Context, b *builder, images []*planner.Image) error {
	work := newBatch(r, b, images)
	watched, stop := b.watched(ctx)
	err := work.do(watched)
	stop()
	if err != nil && ctx.Err() == nil && b.lost(ctx) {
		return r.replace(ctx, work, err)
	}
	r.keep(work)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx) // the user's wish, or what went wrong elsewhere
	case !errors.Is(err, errStopped):
		err = r.fault(work.builder, err)
	}
	r.cancel(err)
	return err
}

// keep takes what a builder has finished, and what failed there.
func (r *run) keep(work *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.made, work.finished())
	r.failures = append(r.failures, work.order...)
}

// replace gives what a lost builder has not finished to the others. What failed there may have failed for that.
func (r *run) replace(ctx context.Context, work *batch, err error) error {
	lost := &Error{work.builder.Address, fmt.Errorf("the connection was lost: %w", plain(err))}
	work.builder.leave(lost)
	work.order = nil
	r.keep(work)
	r.status.forget()
	if len(alive(r.builders)) == 0 {
		r.cancel(lost)
		return lost
	}
	r.note(lost.Error() + "; others take over")
	done := work.finished()
	return r.spread(ctx, slices.DeleteFunc(slices.Clone(work.images), func(m *planner.Image) bool { return done[m] != nil }))
}

// fault is the error of a builder that is there and could not build, for no fault of a step.
func (r *run) fault(b *builder, err error) error {
	var own *storeError
	if errors.As(err, &own) {
		return fmt.Errorf("keep what builder %s sends: %w", b.Address, own.error)
	}
	return &Error{b.Address, plain(err)}
}

// share gives every image to a builder that fits. Images with steps in common stay together as long as that builder has
// no more than its share of the work.
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
			// Compared are loads for equal weights: after/weight.
			if best == nil || after*best.weight() < bestLoad*b.weight() {
				best, bestLoad = b, after
			}
		}
		best.work.add(steps)
		shares[best] = append(shares[best], image)
	}
	return shares, nil
}

// with is the load with some steps more.
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

// closure are the steps that an image needs.
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

// choose is one builder for an image.
func (r *run) choose(image *planner.Image) (*builder, error) {
	fits, err := r.fits(image)
	if err != nil {
		return nil, err
	}
	return fits[0], nil
}

// fits are the builders that can run an image's commands: those whose own platform it is, else those that can run it.
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

// noneFits says which builders there are, and what they build for.
func (r *run) noneFits(image *planner.Image, needs []ocispecs.Platform) error {
	var have []string
	for _, b := range r.builders {
		if err := b.left(); err != nil {
			have = append(have, err.Error())
			continue
		}
		have = append(have, b.Address+" builds for "+strings.Join(names(b.platforms), ", "))
	}
	return &Error{r.builders[0].Address, fmt.Errorf("target %s: no builder runs commands of %s: %s",
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

// isNative says whether a platform is the builder's own: one that the project names, else the first that it lists.
func (b *builder) isNative(p ocispecs.Platform) bool {
	if b.own {
		return b.runs(p)
	}
	return len(b.platforms) == 0 || platforms.Only(b.platforms[0]).Match(p)
}

// runs says whether the builder can run commands of a platform.
func (b *builder) runs(p ocispecs.Platform) bool {
	return slices.ContainsFunc(b.platforms, func(q ocispecs.Platform) bool { return platforms.Only(q).Match(p) })
}

// commandPlatforms are those of the commands that an image needs.
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
		if !slices.ContainsFunc(out, func(q ocispecs.Platform) bool { return platforms.Format(q) == platforms.Format(platform) }) {
			out = append(out, platform)
		}
	}
	return out
}
