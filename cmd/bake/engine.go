package main

import (
	"slices"
	"strings"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded"
)

// embeddedEngine is the name of the engine that runs in this process.
const embeddedEngine = "embedded"

// builders are the BuildKit daemons that build: those of --engine, else of BAKE_ENGINE, else of BUILDKIT_HOST; none
// means this process. Each of the three may list several, with commas.
func (a *app) builders(flag []string) []buildkitd.Builder {
	said := flag
	for _, name := range []string{"BAKE_ENGINE", "BUILDKIT_HOST"} {
		if len(said) == 0 && a.env(name) != "" {
			said = []string{a.env(name)}
		}
	}
	var all []buildkitd.Builder
	for _, address := range strings.Split(strings.Join(said, ","), ",") {
		if address = strings.TrimSpace(address); address != "" && address != embeddedEngine {
			all = append(all, buildkitd.Builder{Address: address})
		}
	}
	return all
}

// runner is the engine that runs graphs of a project.
func (s *session) runner(p *config.Project, o runOptions) executor.Engine {
	builders := s.app.builders(o.engine)
	if len(builders) == 0 {
		return s.engine
	}
	opts := buildkitd.Options{
		Builders: builders, Blobs: layerBlobs{s.store}, Store: embedded.ImageStore(s.store), Pusher: executor.NewPusher(s.client),
		CacheFrom: map[string][]config.Attrs{}, CacheTo: map[string][]config.Attrs{},
	}
	for _, t := range p.Targets {
		opts.CacheFrom[t.Name], opts.CacheTo[t.Name] = slices.Clone(t.CacheFrom), slices.Clone(t.CacheTo)
	}
	return buildkitd.New(opts)
}

// layerBlobs keeps layers that daemons built where the embedded engine keeps its own.
type layerBlobs struct{ *cache.Store }

// NewBlob implements buildkitd.Blobs.
func (b layerBlobs) NewBlob() (buildkitd.BlobWriter, error) { return b.Store.NewBlob() }
