package main

import (
	"context"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/embedded/fetch"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner/pins"
)

// lockPlan is a pins.Plan with the session that it uses. Close it.
type lockPlan struct {
	*session
	*pins.Plan
}

// lockChange changes what planLock plans with. Its fields may be nil.
type lockChange struct {
	// read replaces config.ReadLock.
	read func(dir string) (*config.Lock, error)
	// release changes used, a copy of p.Lock, before the plan is computed with it. p has no graph yet.
	release func(ctx context.Context, p *pins.Plan, used *config.Lock) error
}

// planLock plans the requested targets, or all, with the lock. What the lock does not pin is resolved at its registry,
// whatever the cache knows. The caller must close the plan.
func (a *app) planLock(ctx context.Context, o projectOptions, c lockChange) (*lockPlan, error) {
	load := a.loadProject
	if len(o.targets) == 0 {
		load = a.wholeProject
	}
	project, err := load(ctx, o)
	if err != nil {
		return nil, err
	}
	if a.fetcher != nil {
		return nil, errRemoteProject()
	}
	if c.read == nil {
		c.read = config.ReadLock
	}
	lock, err := c.read(project.Dir)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		lock = config.NewLock()
	}
	s, err := a.open(true)
	if err != nil {
		return nil, err
	}
	p := &lockPlan{s, &pins.Plan{Project: project, Lock: lock, Remote: s.remote()}}
	used := lock.Clone()
	if c.release != nil {
		err = c.release(ctx, p.Plan, used)
	}
	if err == nil {
		p.Graph, err = s.plan(ctx, project, runOptions{pins: pins.Lock{File: used}})
	}
	if err != nil {
		_ = s.Close() // the first error is the cause
		return nil, err
	}
	return p, nil
}

// errRemoteProject is the error of a command that needs bake.lock, for a project that was loaded from a URL.
func errRemoteProject() error {
	return usagef("a remote project has no %s here; run this command in a checkout of the project", config.LockName)
}

// remote gives package pins access to registries and servers.
func (s *session) remote() pins.Remote {
	return pins.Remote{
		Registry: s.client, Platforms: platformChecker{s.client}, Images: s.resolver, Sources: sourceLookup{s.fetcher},
	}
}

// platformChecker implements pins.PlatformChecker. It bypasses the store, which may have what a registry deleted.
type platformChecker struct{ client *registry.Client }

// CheckPlatform implements pins.PlatformChecker.
func (c platformChecker) CheckPlatform(ctx context.Context, ref string, p ocispecs.Platform) error {
	_, err := c.client.Resolve(ctx, ref, p)
	return err
}

// sourceLookup implements pins.Sources.
type sourceLookup struct{ *fetch.Fetcher }

// Commit implements pins.Sources.
func (s sourceLookup) Commit(ctx context.Context, remote, ref string) (string, error) {
	return s.Fetcher.Commit(ctx, fetch.Repository{Remote: remote, Ref: ref})
}
