package embedded

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/executortest"
)

// newMonorepo is a site with generated services.
func newMonorepo(t testing.TB, s *site, repo executortest.Monorepo, outputs []config.Attrs) {
	t.Helper()
	if err := repo.Write(s.dir); err != nil {
		t.Fatal(err)
	}
	s.targets = nil
	for i := range repo.Services {
		s.targets = append(s.targets, &config.Target{
			Name: repo.Name(i), Dockerfile: filepath.Join("services", repo.Name(i)+".Dockerfile"),
			Tags: []string{"mono/" + repo.Name(i)}, Outputs: outputs,
		})
	}
}

// The monorepo is built twice, with one service changed, and once more in another place on another cache.
func TestMonorepo(t *testing.T) {
	var digests [2][]string
	image, err := executortest.ToolImage(t.TempDir())
	if err != nil {
		lack(t, err.Error())
	}
	for k := range digests {
		s := newBox(t, nil)
		repo := executortest.Monorepo{
			Services: 50, LibraryFiles: 2000, ServiceFiles: 3, Base: s.connect(image).ref, Tool: executortest.ToolPath,
		}
		newMonorepo(t, s, repo, nil)
		ran, report, err := s.run()
		if err != nil || len(ran) != 51 {
			t.Fatal(len(ran), err)
		}
		for _, i := range report.Images {
			digests[k] = append(digests[k], i.Digest.String())
		}
		s.must()
		s.write(map[string]string{repo.ServiceFile(7): "changed"})
		s.must("/bin/tool /app/" + repo.Name(7) + ".out")
	}
	if diff := cmp.Diff(digests[0], digests[1]); diff != "" {
		t.Errorf("two caches gave different images: %s", diff)
	}
}

// BenchmarkWarm is the engine's part of a build of which everything is cached, the plan not counted. Each round is a
// process of its own to the cache and to the stat index.
func BenchmarkWarm(b *testing.B) {
	for _, output := range []string{"cacheonly", "store"} {
		b.Run(fmt.Sprintf("output=%s", output), func(b *testing.B) {
			s := newSite(b, nil)
			repo := executortest.Monorepo{Services: 50, LibraryFiles: 2000, ServiceFiles: 20, Base: "scratch",
				Tool: "count"}
			var outputs []config.Attrs
			if output == "cacheonly" {
				outputs = []config.Attrs{{"type": "cacheonly"}}
			}
			newMonorepo(b, s, repo, outputs)
			if ran, _, err := s.run(); err != nil || len(ran) != 51 {
				b.Fatal(len(ran), err)
			}
			time.Sleep(2100 * time.Millisecond) // files written just now are hashed again
			if ran, _, err := s.run(); err != nil || len(ran) != 0 {
				b.Fatal(strings.Join(ran, "\n"), err)
			}
			g := s.graph()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.engine.Run(context.Background(), g, executor.Options{Dir: s.dir}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
