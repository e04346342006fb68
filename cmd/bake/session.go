package main

import (
	"context"
	"errors"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// session is one cache, one registry client and the engine on both.
type session struct {
	app      *app
	store    *cache.Store
	client   *registry.Client
	engine   *embedded.Engine
	resolver *resolver
}

// open opens the cache for a command that plans or builds. pull asks registries for every base, however fresh.
func (a *app) open(pull bool) (*session, error) {
	store, err := a.openStore()
	if err != nil {
		return nil, err
	}
	client, err := a.newClient()
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return &session{
		app: a, store: store, client: client,
		engine:   embedded.New(store, client, embedded.Options{}),
		resolver: newResolver(a, store, client, pull),
	}, nil
}

// plan makes the graph of a project.
func (s *session) plan(ctx context.Context, p *config.Project, o runOptions) (*planner.Graph, error) {
	return planner.Plan(ctx, p, planner.Options{Resolver: s.resolver, NoCache: o.noCache})
}

func (s *session) Close() error { return s.store.Close() }
