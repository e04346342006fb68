package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/builds"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/dial"
	"github.com/bakebuild/bake/executor/embedded"
	"github.com/bakebuild/bake/executor/embedded/fetch"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/executor/resolve"
	"github.com/bakebuild/bake/planner"
)

// session holds what a command that plans or builds uses. All of it shares one cache and one registry client. Close it.
type session struct {
	app      *app
	store    *cache.Store
	client   *registry.Client
	engine   *embedded.Engine
	resolver *resolve.Resolver
	fetcher  *fetch.Fetcher
}

// open opens the cache for a command that plans or builds. With pull, each base is requested from its registry, even if
// the stored answer is fresh.
func (a *app) open(pull bool) (*session, error) {
	store, err := a.openStore()
	if err != nil {
		return nil, err
	}
	client, err := a.newClient()
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	fetcher := a.fetcher
	if fetcher == nil {
		fetcher = a.newFetcher(store)
	}
	return &session{
		app: a, store: store, client: client,
		engine: embedded.New(store, client, embedded.Options{
			Checkouts: fetcher, HTTP: a.newHTTP(), Origin: a.origin(),
		}),
		resolver: resolve.New(store, client, resolve.Options{
			Pull: pull, Offline: a.offline, Note: a.note, Origin: a.origin(), Frozen: a.pins.Frozen(),
		}),
		fetcher: fetcher,
	}, nil
}

// memo returns the memo of plans. The plan of a remote project is not stored, because it depends on fetched files.
func (s *session) memo() planner.Memo {
	if s.app.fetcher != nil {
		return nil
	}
	return builds.Plans(s.store)
}

// plan returns the graph of a project.
func (s *session) plan(ctx context.Context, p *config.Project, o runOptions) (*planner.Graph, error) {
	return planner.Plan(ctx, p, planner.Options{
		RefuseRego: o.builds,
		Resolver:   s.resolver, Memo: s.memo(), Fetcher: s.fetcher, Lock: o.pins.File, Frozen: o.pins.Frozen(),
		NoCache: o.noCache, KeepGoing: o.jobs.keepGoing,
		Warn: func(w planner.Warning) { s.app.showWarnings(o, []planner.Warning{w}) },
	})
}

// definition returns the remote project at a URL. It sets a.fetcher, so that what was fetched once stays the same for
// the rest of the command. BUILDX_BAKE_GIT_AUTH_TOKEN and _HEADER are sent only to the host of the URL.
func (a *app) definition(
	ctx context.Context, rawURL, contextURL string, grants config.Grants,
) (*config.Definition, error) {
	if err := a.enterForURLs(ctx, rawURL, contextURL); err != nil {
		return nil, err
	}
	if err := a.fetchGuarded(ctx, grants, rawURL, contextURL); err != nil {
		return nil, err
	}
	token, header := a.env("BUILDX_BAKE_GIT_AUTH_TOKEN"), a.env("BUILDX_BAKE_GIT_AUTH_HEADER")
	if token != "" && header == "" {
		header = "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+token))
	}
	if u, err := url.Parse(rawURL); err == nil && u.Scheme == "https" {
		a.fetcher.Auth, a.fetcher.Host = header, u.Host
	}
	if err := a.settleContexts(ctx, contextURL); err != nil {
		return nil, err
	}
	return &config.Definition{URL: rawURL, Context: contextURL, Fetcher: a.fetcher}, nil
}

// fetchGuarded sets a.fetcher for what comes from elsewhere: it connects to this machine only for the given URLs, which
// the user wrote, unless the user permits more.
func (a *app) fetchGuarded(ctx context.Context, grants config.Grants, urls ...string) error {
	store, err := a.openStore()
	if err != nil {
		return err
	}
	a.fetcher = a.newFetcher(store)
	if grants.Has("network.local") {
		return nil
	}
	if a.guard, err = a.newGuard(urls...); err != nil {
		return err
	}
	a.fetcher.Guard = a.guard
	return nil
}

// settleContexts fetches the contexts of the command line whose hosts are on this machine, before anything that the
// author of the definition names. Other hosts are like any other from then on.
func (a *app) settleContexts(ctx context.Context, urls ...string) error {
	for _, u := range urls {
		if a.guard == nil || a.offline || u == "" || !a.guard.SettleUnused(ctx, u) {
			continue
		}
		if _, _, err := a.fetcher.Fetch(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// newGuard returns what connects for a remote project. The hosts of the URLs on the command line are exempt.
func (a *app) newGuard(urls ...string) (*dial.Guard, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	a.fetcher.Program = program
	guard := dial.New(a.env)
	for _, u := range urls {
		if u != "" {
			guard.Trust(u)
		}
	}
	return guard, nil
}

// newHTTP returns the client for ADD of a URL; nil stands for the default client.
func (a *app) newHTTP() *http.Client {
	switch {
	case a.offline:
		return &http.Client{Transport: offlineTransport{}}
	case a.guard != nil:
		return &http.Client{Transport: a.guard}
	}
	return nil
}

// offlineTransport fails every request.
type offlineTransport struct{}

// RoundTrip implements http.RoundTripper.
func (offlineTransport) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("not in the cache, and --offline is set; run once without --offline")
}

// newFetcher returns a fetcher of git repositories and URLs. Its git program gets the environment without GIT_
// variables.
func (a *app) newFetcher(store *cache.Store) *fetch.Fetcher {
	f := &fetch.Fetcher{Store: store, Offline: a.offline}
	for name, value := range a.environ {
		if !strings.HasPrefix(name, "GIT_") {
			f.Env = append(f.Env, name+"="+value)
		}
	}
	if v := a.env("BUILDX_BAKE_GIT_SSH"); v != "" {
		f.Env = append(f.Env, "SSH_AUTH_SOCK="+v)
	}
	return f
}

// checkDaemonSources returns an error if a daemon would fetch a URL of this machine for a remote project. The embedded
// engine checks each connection instead.
func (a *app) checkDaemonSources(ctx context.Context, engine executor.Engine, g *planner.Graph) error {
	if _, here := engine.(*embedded.Engine); here || a.guard == nil {
		return nil
	}
	for _, url := range g.RemoteURLs() {
		if err := a.guard.CheckURL(ctx, url); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the engine and the cache.
func (s *session) Close() error { return errors.Join(s.engine.Close(), s.store.Close()) }
