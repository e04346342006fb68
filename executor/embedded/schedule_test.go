package embedded

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/config"
)

// TestHeavyStepsOneByOne: steps whose memory limits do not fit together run one after the other, even with a high -j.
func TestHeavyStepsOneByOne(t *testing.T) {
	s := newSite(t, nil)
	s.targets = nil
	for i := range 4 {
		name := fmt.Sprint("t", i)
		s.write(map[string]string{name + ".Dockerfile": fmt.Sprintf("FROM scratch\nRUN [\"write\", \"/x\", \"%d\"]\n",
			i)})
		s.targets = append(s.targets, &config.Target{
			Name: name, Dockerfile: name + ".Dockerfile", Outputs: []config.Attrs{{"type": "cacheonly"}},
			Resources: map[string]string{"memory": "600m"},
		})
	}
	s.engine = New(s.store, nil, Options{Runner: s.runner, Memory: 1300 << 20})
	s.opts.Jobs = 8
	var running, peak int
	both := make(chan struct{})
	s.runner.hold = func(context.Context, []string) error {
		s.runner.mu.Lock()
		running++
		peak = max(peak, running)
		if running == 2 && peak == 2 {
			select {
			case <-both:
			default:
				close(both)
			}
		}
		s.runner.mu.Unlock()
		<-both // two run at once
		s.runner.mu.Lock()
		defer s.runner.mu.Unlock()
		running--
		return nil
	}
	s.must("write /x 0", "write /x 1", "write /x 2", "write /x 3")
	if peak != 2 {
		t.Errorf("%d steps of 600 MB ran at once in 1300 MB, want 2", peak)
	}
}

// TestLongestChainFirst: the step that took longest last time starts first, although it is the last in the graph.
func TestLongestChainFirst(t *testing.T) {
	s := newSite(t, nil)
	s.targets = nil
	times := map[string]time.Duration{}
	var commands []string
	for i := range 5 {
		name := fmt.Sprint("t", i)
		s.write(map[string]string{name + ".Dockerfile": fmt.Sprintf("FROM scratch\nRUN [\"write\", \"/x\", \"%d\"]\n",
			i)})
		one := target(name)
		s.targets = append(s.targets, one)
		commands = append(commands, fmt.Sprintf("write /x %d", i))
	}
	for i, step := range s.graph().Steps {
		times["name "+step.Name] = time.Duration(i+1) * time.Minute
	}
	if err := s.store.AddDurations(times); err != nil {
		t.Fatal(err)
	}
	s.opts.Jobs = 1
	var order []string
	first := make(chan struct{})
	s.runner.hold = func(_ context.Context, args []string) error {
		s.runner.mu.Lock()
		order = append(order, strings.Join(args, " "))
		n := len(order)
		s.runner.mu.Unlock()
		if n == 1 { // until all others wait
			select {
			case <-first:
			case <-time.After(200 * time.Millisecond):
			}
		}
		return nil
	}
	s.must(commands...)
	rest := slices.Clone(order[1:])
	slices.Sort(rest)
	slices.Reverse(rest)
	if diff := cmp.Diff(rest, order[1:]); diff != "" {
		t.Errorf("after the first, the longest first is wanted: %s", diff)
	}
}

// TestJobsMakeNoDifference: one step at a time or many give the same images.
func TestJobsMakeNoDifference(t *testing.T) {
	s := newSite(t, map[string]string{"lib/x": "1", "lib/y": "2"})
	s.targets = nil
	for i := range 6 {
		name := fmt.Sprint("t", i)
		s.write(map[string]string{name + ".Dockerfile": fmt.Sprintf(`FROM scratch AS base
RUN ["write", "/base", "same"]
FROM base AS build
COPY lib /lib
RUN ["write", "/out/%d", "%d"]
FROM base
COPY --from=build /out /out
COPY lib/x /lib/
RUN ["copy", "/out/%d", "/copied"]
`, i/2, i/2, i/2)})
		s.targets = append(s.targets, &config.Target{Name: name, Dockerfile: name + ".Dockerfile",
			Tags: []string{"x/" + name}})
	}
	var want string
	for _, jobs := range []int{1, 2, 8} {
		s.newCache()
		s.opts.Jobs = jobs
		ran, report, err := s.run()
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(ran)
		for _, image := range report.Images {
			got += "\n" + image.Digest.String()
		}
		if want == "" {
			want = got
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-j %d: %s", jobs, diff)
		}
	}
}
