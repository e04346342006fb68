package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// room is a semaphore whose waiters are known by name.
type room struct {
	t       *testing.T
	slots   *slots
	mu      sync.Mutex
	release map[string]func()
	got     chan string
	cancel  map[string]context.CancelFunc
}

func newRoom(t *testing.T, n int, memory int64) *room {
	return &room{t: t, slots: newSlots(n, memory), release: map[string]func(){}, got: make(chan string), cancel: map[string]context.CancelFunc{}}
}

// enter asks for n, with a height, and returns when that is queued or granted.
func (r *room) enter(name string, height int, n need) {
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel[name] = cancel
	index, before := len(r.cancel), r.waiting()
	granted := make(chan struct{})
	go func() {
		free, err := r.slots.acquire(ctx, &task{index: index, height: time.Duration(height)}, n)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.release[name] = free
		r.mu.Unlock()
		close(granted)
		r.got <- name
	}()
	for r.waiting() == before {
		select {
		case <-granted:
			return
		case <-time.After(100 * time.Microsecond):
		}
	}
}

func (r *room) waiting() int {
	r.slots.mu.Lock()
	defer r.slots.mu.Unlock()
	return len(r.slots.waiters)
}

// started are the next n that have started, sorted, and nobody else.
func (r *room) started(n int) string {
	r.t.Helper()
	var names []string
	for range n {
		select {
		case name := <-r.got:
			names = append(names, name)
		case <-time.After(10 * time.Second):
			r.t.Fatalf("only %q started, want %d", names, n)
		}
	}
	select {
	case name := <-r.got:
		r.t.Fatalf("%s started too, after %q", name, names)
	case <-time.After(5 * time.Millisecond):
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (r *room) leave(name string) {
	r.mu.Lock()
	free := r.release[name]
	r.mu.Unlock()
	free()
}

func (r *room) want(got, want string) {
	r.t.Helper()
	if got != want {
		r.t.Errorf("%q started, want %q", got, want)
	}
}

func TestSlotsServeTheHighestFirst(t *testing.T) {
	r := newRoom(t, 1, 0)
	one := need{slots: 1}
	r.enter("first", 0, one)
	r.want(r.started(1), "first")
	for name, height := range map[string]int{"low": 1, "high": 5, "middle": 3} {
		r.enter(name, height, one)
	}
	last := "first"
	for _, next := range []string{"high", "middle", "low"} {
		r.leave(last)
		r.want(r.started(1), next)
		last = next
	}
}

// TestSlotsOfMemory: steps with a memory limit run at once as far as there is memory; others pass, and make nobody wait.
func TestSlotsOfMemory(t *testing.T) {
	r := newRoom(t, 4, 10)
	heavy, light := need{1, 6}, need{slots: 1}
	r.enter("a", 9, heavy)
	r.enter("b", 8, heavy)
	r.enter("small", 1, need{1, 4})
	r.enter("light1", 1, light)
	r.enter("light2", 1, light)
	r.want(r.started(4), "a light1 light2 small") // b takes 6 of 10: beside it there is room for 4
	r.enter("small2", 1, need{1, 4})
	r.leave("light1")
	r.want(r.started(0), "") // a second small one would make b wait longer
	r.leave("a")
	r.want(r.started(1), "b")
	r.leave("small")
	r.want(r.started(1), "small2")
}

// TestSlotsKeepRoomForTheHead: many small steps do not starve a big one.
func TestSlotsKeepRoomForTheHead(t *testing.T) {
	r := newRoom(t, 2, 10)
	r.enter("running", 1, need{1, 2})
	r.want(r.started(1), "running")
	r.enter("big", 9, need{1, 10})
	for i := range 3 {
		r.enter(fmt.Sprint("small", i), 1, need{1, 1})
	}
	r.want(r.started(0), "") // whatever passes makes big wait longer
	r.leave("running")
	r.want(r.started(1), "big")
	r.leave("big")
	r.want(r.started(2), "small0 small1")
}

func TestSlotsMoreThanThereAre(t *testing.T) {
	r := newRoom(t, 2, 10)
	r.enter("a", 2, need{8, 100})
	r.want(r.started(1), "a")
	r.enter("b", 1, need{slots: 1})
	r.want(r.started(0), "")
	r.leave("a")
	r.want(r.started(1), "b")
}

func TestSlotsAbandonedWaiter(t *testing.T) {
	r := newRoom(t, 1, 10)
	r.enter("a", 1, need{1, 10})
	r.want(r.started(1), "a")
	r.enter("b", 9, need{1, 10})
	r.enter("c", 1, need{slots: 1})
	r.cancel["b"]()
	for r.waiting() > 1 {
		time.Sleep(100 * time.Microsecond)
	}
	r.leave("a")
	r.want(r.started(1), "c")
	r.leave("c")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.slots.acquire(ctx, &task{}, need{slots: 1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if r.slots.used != (need{}) || len(r.slots.waiters) > 0 {
		t.Errorf("used %v, %d waiters", r.slots.used, len(r.slots.waiters))
	}
}

func TestNeedOfResources(t *testing.T) {
	for _, c := range []struct {
		r    *pb.LinuxResources
		want need
	}{
		{nil, need{1, 0}},
		{&pb.LinuxResources{Memory: 512, CpuShares: 2048}, need{1, 512}},
		{&pb.LinuxResources{Memory: -1}, need{1, 0}},
		{&pb.LinuxResources{CpuQuota: 250_000}, need{3, 0}},
		{&pb.LinuxResources{CpuQuota: 10_000, CpuPeriod: 50_000}, need{1, 0}},
		{&pb.LinuxResources{CpusetCpus: "0-2,7"}, need{4, 0}},
		{&pb.LinuxResources{CpusetCpus: "0-2,7", CpuQuota: 200_000}, need{2, 0}},
		{&pb.LinuxResources{CpusetCpus: "3-1"}, need{1, 0}},
		{&pb.LinuxResources{CpusetCpus: "all"}, need{1, 0}},
	} {
		n := &node{step: &planner.Step{Resources: c.r}}
		if got := n.need(); got != c.want {
			t.Errorf("%v: %v, want %v", c.r, got, c.want)
		}
	}
}

// TestHeavyStepsOneByOne: targets whose memory limits do not fit together run one after the other, whatever -j says.
func TestHeavyStepsOneByOne(t *testing.T) {
	s := newSite(t, nil)
	s.targets = nil
	for i := range 4 {
		name := fmt.Sprint("t", i)
		s.write(map[string]string{name + ".Dockerfile": fmt.Sprintf("FROM scratch\nRUN [\"write\", \"/x\", \"%d\"]\n", i)})
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

// TestLongestChainFirst: the step that took longest before starts first, though it stands last in the graph.
func TestLongestChainFirst(t *testing.T) {
	s := newSite(t, nil)
	s.targets = nil
	times := map[string]time.Duration{}
	var commands []string
	for i := range 5 {
		name := fmt.Sprint("t", i)
		s.write(map[string]string{name + ".Dockerfile": fmt.Sprintf("FROM scratch\nRUN [\"write\", \"/x\", \"%d\"]\n", i)})
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
		s.targets = append(s.targets, &config.Target{Name: name, Dockerfile: name + ".Dockerfile", Tags: []string{"x/" + name}})
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
