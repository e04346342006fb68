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

// builders are the BuildKit daemons that build: those of --engine, else of BAKE_ENGINE, else of BUILDKIT_HOST, else the
// engine blocks of the project; none means this process. Each may list several, with commas, by address or by the name
// of a block. Blocks of a project from elsewhere must be named: whoever wrote it does not say where contexts and secrets
// of this machine go.
func (a *app) builders(p *config.Project, flag []string) ([]buildkitd.Builder, error) {
	said := strings.Join(flag, ",")
	for _, name := range []string{"BAKE_ENGINE", "BUILDKIT_HOST"} {
		if said == "" {
			said = a.env(name)
		}
	}
	if said == "" && a.fetcher == nil {
		said = strings.Join(slices.Sorted(maps.Keys(p.Engines)), ",")
	}
	var all []buildkitd.Builder
	for _, name := range strings.Split(said, ",") {
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

// builder is a daemon by its address or by the name of an engine block.
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
			return buildkitd.Builder{}, usagef("engine %q: the project has no such engine block (it has %s), and %w", name, known, err)
		}
		return buildkitd.Builder{}, usagef("engine: %w", err)
	}
	return buildkitd.Builder{Address: name}, nil
}

// runner is the engine that runs graphs of a project: on builders, or in this process without any.
func (s *session) runner(p *config.Project, builders []buildkitd.Builder) (executor.Engine, error) {
	if len(builders) == 0 {
		return s.embedded(p), nil
	}
	origin, err := s.store.ID()
	if err != nil {
		return nil, err
	}
	opts := buildkitd.Options{
		Builders: builders, Blobs: layerBlobs{s.store}, Store: embedded.ImageStore(s.store), Pusher: executor.NewPusher(s.client),
		Origin: origin, Tests: passedTests{s.store},
	}
	opts.CacheFrom, opts.CacheTo = caches(p)
	return buildkitd.New(opts), nil
}

// embedded is the engine of this process, with the caches from elsewhere that the project names.
func (s *session) embedded(p *config.Project) *embedded.Engine {
	from, to := caches(p)
	return s.engine.WithCaches(embedded.Caches{From: from, To: to})
}

// caches are the caches from elsewhere that targets read and write, by target.
func caches(p *config.Project) (from, to map[string][]config.Attrs) {
	from, to = map[string][]config.Attrs{}, map[string][]config.Attrs{}
	for _, t := range p.Targets {
		from[t.Name], to[t.Name] = slices.Clone(t.CacheFrom), slices.Clone(t.CacheTo)
	}
	return from, to
}

// passedTests keeps which tests passed on what daemons built beside the embedded engine's entries.
type passedTests struct{ store *cache.Store }

// Passed implements buildkitd.PassedTests.
func (p passedTests) Passed(key digest.Digest) (bool, error) {
	e, err := p.store.Lookup(key)
	return e != nil, err
}

// Pass implements buildkitd.PassedTests.
func (p passedTests) Pass(key digest.Digest, s *planner.Step, took time.Duration) error {
	return p.store.Put(&cache.Entry{ID: key, Key: key, Step: s.Digest, Name: s.Name, Seconds: took.Seconds(), Created: time.Now().UTC()})
}

// layerBlobs keeps layers that daemons built where the embedded engine keeps its own.
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
