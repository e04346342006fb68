package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded"
	"github.com/bakebuild/bake/planner"
)

// embeddedEngine is the name of the engine that runs in this process.
const embeddedEngine = "embedded"

// builders returns the BuildKit daemons to build on: those of --engine, else BAKE_ENGINE, else BUILDKIT_HOST, else the
// engine blocks of the project. None means this process. Flag and variables list addresses and names of blocks,
// separated by commas. The blocks of a remote project must be named: its author must not decide where contexts and
// secrets of this machine go.
func (a *app) builders(p *config.Project, flag []string) ([]buildkitd.Builder, error) {
	list := strings.Join(flag, ",")
	for _, name := range []string{"BAKE_ENGINE", "BUILDKIT_HOST"} {
		if list == "" {
			list = a.env(name)
		}
	}
	if list == "" && a.fetcher == nil {
		list = strings.Join(slices.Sorted(maps.Keys(p.Engines)), ",")
	}
	var all []buildkitd.Builder
	for _, name := range strings.Split(list, ",") {
		name = strings.TrimSpace(name)
		if name == "" || name == embeddedEngine {
			continue
		}
		one, err := builder(p, name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(all, func(b buildkitd.Builder) bool { return b.Address == one.Address }) {
			all = append(all, one)
		}
	}
	return all, nil
}

// builder returns the daemon with an address or the name of an engine block.
func builder(p *config.Project, name string) (buildkitd.Builder, error) {
	if e, ok := p.Engines[name]; ok {
		if err := buildkitd.CheckAddress(e.Address); err != nil {
			return buildkitd.Builder{}, usagef("engine %q: %w", name, err)
		}
		return buildkitd.Builder{Address: e.Address, Platforms: e.Platforms, Weight: e.Weight}, nil
	}
	if err := buildkitd.CheckAddress(name); err != nil {
		known := strings.Join(slices.Sorted(maps.Keys(p.Engines)), ", ")
		if known != "" && !strings.Contains(name, "://") {
			return buildkitd.Builder{}, usagef("engine %s: unknown engine block; available: %s; "+
				"or use an address such as tcp://HOST:1234", name, known)
		}
		return buildkitd.Builder{}, usagef("engine: %w", err)
	}
	return buildkitd.Builder{Address: name}, nil
}

// runner returns the engine for graphs of a project: on builders, or in this process if there are none.
func (s *session) runner(p *config.Project, builders []buildkitd.Builder) (executor.Engine, error) {
	if len(builders) == 0 {
		if place := s.app.place; place != nil {
			s.app.note("%s; %s", place.Cause(), place.Remedy())
		}
		return s.embedded(p), nil
	}
	origin, err := s.store.ID()
	if err != nil {
		return nil, err
	}
	opts := buildkitd.Options{
		Builders: builders, Blobs: layerBlobs{s.store}, Store: embedded.ImageStore(s.store, s.app.origin()),
		Written: s.store,
		Pusher:  executor.NewPusher(s.client), Origin: origin, Tests: passedTests{s.store},
	}
	opts.CacheFrom, opts.CacheTo = caches(p)
	return buildkitd.New(opts), nil
}

// embedded returns the engine of this process, with the remote caches of the project.
func (s *session) embedded(p *config.Project) *embedded.Engine {
	from, to := caches(p)
	return s.engine.WithCaches(embedded.Caches{From: from, To: to})
}

// caches returns the remote caches that targets import and export, by target.
func caches(p *config.Project) (from, to map[string][]config.Attrs) {
	from, to = map[string][]config.Attrs{}, map[string][]config.Attrs{}
	for _, t := range p.Targets {
		from[t.Name], to[t.Name] = slices.Clone(t.CacheFrom), slices.Clone(t.CacheTo)
	}
	return from, to
}

// passedTests implements buildkitd.PassedTests: it stores tests that passed as entries of the cache.
type passedTests struct{ store *cache.Store }

// Passed implements buildkitd.PassedTests.
func (p passedTests) Passed(key digest.Digest) (bool, error) {
	e, err := p.store.Lookup(key)
	return e != nil, err
}

// Pass implements buildkitd.PassedTests.
func (p passedTests) Pass(key digest.Digest, s *planner.Step, took time.Duration) error {
	return p.store.Put(&cache.Entry{
		ID: key, Key: key, Step: s.Digest, Name: s.Name, Seconds: took.Seconds(), Created: time.Now().UTC(),
	})
}

// layerBlobs implements buildkitd.Blobs: it stores layers from daemons with those of the embedded engine.
type layerBlobs struct{ *cache.Store }

// NewBlob implements buildkitd.Blobs.
func (b layerBlobs) NewBlob() (buildkitd.BlobWriter, error) { return b.Store.NewBlob() }

// Recompress implements buildkitd.Blobs.
func (b layerBlobs) Recompress(
	ctx context.Context, l buildkitd.Packed, enc executor.LayerEncoding, epoch time.Time,
) (buildkitd.Packed, error) {
	from := cache.Packed{DiffID: l.DiffID, Digest: l.Digest, Size: l.Size, MediaType: l.MediaType}
	p, err := embedded.Recompress(ctx, b.Store, from, enc, epoch)
	return buildkitd.Packed{DiffID: p.DiffID, Digest: p.Digest, Size: p.Size, MediaType: p.MediaType}, err
}
