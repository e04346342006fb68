package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/planner/pins"
)

// The variables that bound the cache. It is one for all projects of a user, so that no project says what it may take.
const (
	envCacheSize    = "BAKE_CACHE_SIZE"
	envCacheReserve = "BAKE_CACHE_RESERVE"
)

// What a cache may take where nothing says: a fifth of the disk, and half of a small one; a twentieth stays free.
const (
	defaultShare     = 5
	defaultLeast     = 10e9
	defaultFreeShare = 20
	defaultFreeMost  = 10e9
)

// cacheLimits are the bounds of the cache in dir, on whose disk they depend.
func (a *app) cacheLimits(dir string) (cache.Limits, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return cache.Limits{}, &cache.Error{Op: "measure the disk of", Path: dir, Err: err}
	}
	disk := int64(st.Blocks) * st.Frsize
	size, err := limitOf(a.env(envCacheSize), disk, max(disk/defaultShare, min(defaultLeast, disk/2)))
	if err != nil {
		return cache.Limits{}, usagef("%s: %w", envCacheSize, err)
	}
	reserve, err := limitOf(a.env(envCacheReserve), disk, min(disk/defaultFreeShare, defaultFreeMost))
	if err != nil {
		return cache.Limits{}, usagef("%s: %w", envCacheReserve, err)
	}
	return cache.Limits{Size: size, Reserve: reserve}, nil
}

// limitOf reads a size, a share of the disk such as 20%, or "none", which is 0 and no bound.
func limitOf(text string, disk, otherwise int64) (int64, error) {
	if text == "" {
		return otherwise, nil
	}
	if text == "none" {
		return 0, nil
	}
	if share, ok := strings.CutSuffix(text, "%"); ok {
		p, err := strconv.ParseFloat(share, 64)
		if err != nil || !(p > 0 && p <= 100) {
			return 0, fmt.Errorf("%q is no share of the disk: write 20%%", text)
		}
		return int64(float64(disk) * p / 100), nil
	}
	n, err := parseSize(text)
	if err == nil && n == 0 {
		err = fmt.Errorf("%q: write none for no limit", text)
	}
	return n, err
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

// collect frees what the cache has too much, after a build. It never fails one: what it could not do is a note.
func (s *session) collect(ctx context.Context, limits cache.Limits) {
	if ctx.Err() != nil {
		return
	}
	done, err := s.store.Collect(ctx, limits)
	switch {
	case err != nil:
		s.app.note("the cache was not collected: %v", err)
	case done.Over > 0:
		s.app.note("the cache takes %s, %s more than its limits allow: tagged images, pins and running builds need that (bake cache du tells)",
			humanSize(done.Total), humanSize(done.Over))
	}
}
