package main

import (
	"context"
	"path/filepath"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/planner/pins"
)

// The variables that limit the cache. All projects of a user share it, so a project cannot set them.
const (
	envCacheSize    = "BAKE_CACHE_SIZE"
	envCacheReserve = "BAKE_CACHE_RESERVE"
)

// cacheLimits returns the limits of the cache in dir.
func (a *app) cacheLimits(dir string) (cache.Limits, error) {
	return cache.ParseLimits(dir, a.env(envCacheSize), a.env(envCacheReserve), func(reserve bool, err error) error {
		name := envCacheSize
		if reserve {
			name = envCacheReserve
		}
		return usagef("%s: %w", name, err)
	})
}

// keepPins protects the images that the project's lock pins from eviction.
func (s *session) keepPins(p *config.Project, lock pins.Lock) error {
	if lock.File == nil {
		return nil
	}
	var list []digest.Digest
	for _, pin := range lock.File.Images {
		list = append(list, pin.Digest)
	}
	slices.Sort(list)
	return s.store.PutPins(filepath.Join(p.Dir, config.LockName), list)
}

// collect evicts from the cache until it is within its limits. It runs after a build and never fails it.
func (s *session) collect(ctx context.Context, limits cache.Limits) {
	if ctx.Err() != nil {
		return
	}
	done, err := s.store.Collect(ctx, limits)
	switch {
	case err != nil:
		s.app.note("cannot evict from the cache, which can exceed its limits: %v", err)
	case done.Over > 0:
		s.app.note("the cache occupies %s, %s over its limit; tagged images, pins and running builds need it; "+
			"see bake cache du",
			humanSize(done.Total), humanSize(done.Over))
	}
}
