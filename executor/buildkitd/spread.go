package buildkitd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/planner"
)

// Costs of steps beside each other, when work is shared out: commands take long, the rest does not.
const (
	costExec  = 100
	costFile  = 5
	costOther = 1
)

// all builds every image. What a builder had that was lost on the way goes to the others. The errors are failures of
// steps, in the order in which they happened; the last one says that the run could not go on.
func (r *run) all(ctx context.Context) ([]error, error) {
	var failures []error
	failed := map[*planner.Image]bool{}
	for {
		left := slices.DeleteFunc(slices.Clone(r.graph.Images), func(m *planner.Image) bool { return r.made[m] != nil || failed[m] })
		if len(left) == 0 {
			return first(failures), nil
		}
		shares, err := r.share(left)
		if err != nil {
			return first(failures), err
		}
		batches, err := r.round(ctx, shares)
		for _, b := range batches {
			failures = append(failures, b.order...)
			for m := range b.failures {
				failed[m] = true
			}
		}
		if err != nil {
			return first(failures), err
		}
		if len(failures) > 0 && !r.opts.KeepGoing {
			return first(failures), nil
		}
	}
}

// round lets every builder do its share. A lost builder is no error as long as another one is there.
func (r *run) round(ctx context.Context, shares map[*builder][]*planner.Image) ([]*batch, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg      sync.WaitGroup
		batches []*batch
		mu      sync.Mutex
		fault   error
	)
	for b, images := range shares {
		work := &batch{run: r, builder: b, images: images}
		batches = append(batches, work)
		wg.Go(func() {
			results, err := work.do(ctx)
			stop := err
			if err != nil && ctx.Err() == nil {
				stop = r.gaveUp(ctx, work, err)
			}
			mu.Lock()
			defer mu.Unlock()
			for image, m := range results {
				r.made[image] = m
			}
			if stop != nil {
				if fault == nil && !errors.Is(stop, errStopped) {
					fault = stop
				}
				cancel(stop)
			}
		})
	}
	wg.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, errStopped) {
		return batches, nil // the failures of steps say why
	}
	return batches, fault
}

// gaveUp says what an error of a batch means for the run: nothing when the builder is lost and another one is there.
func (r *run) gaveUp(ctx context.Context, work *batch, err error) error {
	if len(work.order) > 0 && !r.opts.KeepGoing {
		return errStopped
	}
	if !work.builder.lost(ctx) {
		return &Error{work.builder.Address, plain(err)}
	}
	lost := &Error{work.builder.Address, fmt.Errorf("the connection was lost: %w", plain(err))}
	work.builder.leave(lost)
	work.failures, work.order = nil, nil
	r.status.forget()
	if len(r.alive()) == 0 {
		return lost
	}
	r.note(lost.Error() + "; others take over")
	return nil
}

// share gives every image to a builder that fits. Images with steps in common stay together as long as that builder has
// no more than its share of the work.
func (r *run) share(images []*planner.Image) (map[*builder][]*planner.Image, error) {
	shares := map[*builder][]*planner.Image{}
	has := map[*builder]map[*planner.Step]bool{}
	load := map[*builder]int{}
	for _, image := range images {
		fits, err := r.fits(image)
		if err != nil {
			return nil, err
		}
		steps := closure(image)
		var best *builder
		var bestLoad int
		for _, b := range fits {
			after := load[b]
			for s := range steps {
				if !has[b][s] {
					after += cost(s)
				}
			}
			// Compared are loads for equal weights: after/weight.
			if best == nil || after*best.weight() < bestLoad*b.weight() {
				best, bestLoad = b, after
			}
		}
		if has[best] == nil {
			has[best] = map[*planner.Step]bool{}
		}
		for s := range steps {
			has[best][s] = true
		}
		load[best] = bestLoad
		shares[best] = append(shares[best], image)
	}
	return shares, nil
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
	for _, b := range r.alive() {
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
