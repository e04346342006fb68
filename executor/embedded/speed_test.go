package embedded

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/embedded/cgroup"
	"github.com/bakebuild/bake/executor/embedded/network"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/seccomp"
	"github.com/bakebuild/bake/executor/executortest"
	"github.com/bakebuild/bake/planner"
)

// BenchmarkStep is a RUN of a command that does nothing, over a base on disk: from the graph to the stored entry.
func BenchmarkStep(b *testing.B) {
	program, err := executortest.TrueProgram()
	if err != nil {
		b.Skip(err)
	}
	s := newBox(b, map[string]string{
		"true": string(program), "Dockerfile": "FROM scratch\nCOPY --chmod=755 true /true\nARG N\nRUN [\"/true\"]\n",
	})
	s.runner.next = &sandbox.Sandbox{Filters: seccomp.Filters, Outside: &network.Network{}, Limiter: &cgroup.Groups{}}
	cacheOnly(s)
	time.Sleep(2100 * time.Millisecond) // files written just now are hashed again
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		g := s.graphWith(strconv.Itoa(i))
		b.StartTimer()
		s.time(b, g, 1)
	}
}

// BenchmarkCopy is a COPY of 10,000 small files, and a cp -a of them in the same round: x_cp is how many times as long
// the COPY takes.
func BenchmarkCopy(b *testing.B) {
	s := newSite(b, map[string]string{"Dockerfile": "FROM scratch\nARG N\nCOPY files /files-$N\n"})
	for i := range 10_000 {
		s.write(map[string]string{fmt.Sprintf("files/%d/%d", i/100, i): fmt.Sprintf("%0400d", i)})
	}
	time.Sleep(2100 * time.Millisecond) // files written just now are hashed again
	cacheOnly(s)
	var ours, theirs time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		g := s.graphWith(strconv.Itoa(i))
		started := time.Now()
		if out, err := exec.Command("cp", "-a", filepath.Join(s.dir, "files"),
			filepath.Join(s.store.Dir(), "cp-"+strconv.Itoa(i))).CombinedOutput(); err != nil {
			b.Fatal(err, string(out))
		}
		theirs += time.Since(started)
		b.StartTimer()
		started = time.Now()
		s.time(b, g, 0)
		ours += time.Since(started)
	}
	b.ReportMetric(float64(ours)/float64(theirs), "x_cp")
}

func cacheOnly(s *site) {
	s.targets = []*config.Target{{Name: "api", Outputs: []config.Attrs{{"type": "cacheonly"}}}}
}

// graphWith plans the target with another argument, so that its steps are other ones.
func (s *site) graphWith(n string) *planner.Graph {
	s.targets[0].Args = map[string]string{"N": n}
	return s.graph()
}

// time runs a graph of which so many commands run.
func (s *site) time(b *testing.B, g *planner.Graph, commands int) {
	if _, err := s.engine.Run(context.Background(), g, executor.Options{Dir: s.dir}); err != nil {
		b.Fatal(err)
	}
	if ran := s.runner.newRuns(); len(ran) != commands {
		b.Fatalf("ran %q", ran)
	}
}
