package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
)

// room is a semaphore with named waiters.
type room struct {
	t       *testing.T
	limiter *Limiter
	mu      sync.Mutex
	release map[string]func()
	got     chan string
	cancel  map[string]context.CancelFunc
}

func newRoom(t *testing.T, n int, memory int64) *room {
	return &room{
		t: t, limiter: NewLimiter(n, memory), release: map[string]func(){}, got: make(chan string),
		cancel: map[string]context.CancelFunc{},
	}
}

// enter requests n for a task of a height and returns when the request is queued or granted.
func (r *room) enter(name string, height int, n Need) {
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel[name] = cancel
	index, before := len(r.cancel), r.waiting()
	granted := make(chan struct{})
	go func() {
		free, err := r.limiter.acquire(ctx, &Task{index: index, height: time.Duration(height)}, n)
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
	r.limiter.mu.Lock()
	defer r.limiter.mu.Unlock()
	return len(r.limiter.waiters)
}

// started returns the names of the next n waiters that start, sorted, and fails if more start.
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

func TestLimiterServesTheHighestFirst(t *testing.T) {
	r := newRoom(t, 1, 0)
	one := Need{Slots: 1}
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

// TestLimiterOfMemory: steps with a memory limit run together as far as memory allows. Others may pass if no waiter is
// delayed by them.
func TestLimiterOfMemory(t *testing.T) {
	r := newRoom(t, 4, 10)
	heavy, light := Need{Slots: 1, Memory: 6}, Need{Slots: 1}
	r.enter("a", 9, heavy)
	r.enter("b", 8, heavy)
	r.enter("small", 1, Need{Slots: 1, Memory: 4})
	r.enter("light1", 1, light)
	r.enter("light2", 1, light)
	r.want(r.started(4), "a light1 light2 small") // b needs 6 of 10, which leaves 4 for those that pass it
	r.enter("small2", 1, Need{Slots: 1, Memory: 4})
	r.leave("light1")
	r.want(r.started(0), "") // a second small step would delay b
	r.leave("a")
	r.want(r.started(1), "b")
	r.leave("small")
	r.want(r.started(1), "small2")
}

// TestLimiterKeepsRoomForTheHead: many small steps do not starve a big one.
func TestLimiterKeepsRoomForTheHead(t *testing.T) {
	r := newRoom(t, 2, 10)
	r.enter("running", 1, Need{Slots: 1, Memory: 2})
	r.want(r.started(1), "running")
	r.enter("big", 9, Need{Slots: 1, Memory: 10})
	for i := range 3 {
		r.enter(fmt.Sprint("small", i), 1, Need{Slots: 1, Memory: 1})
	}
	r.want(r.started(0), "") // any step that passes would delay big
	r.leave("running")
	r.want(r.started(1), "big")
	r.leave("big")
	r.want(r.started(2), "small0 small1")
}

// TestLimiterCountsPassesOfAnEarlierHead: a task is passed, a taller one is the head for a while, and then the first
// one is the head again. What passed it before still counts.
func TestLimiterCountsPassesOfAnEarlierHead(t *testing.T) {
	r := newRoom(t, 6, 0)
	r.enter("running", 1, Need{Slots: 4})
	r.want(r.started(1), "running")
	r.enter("big", 9, Need{Slots: 5})
	r.enter("small1", 1, Need{Slots: 1})
	r.want(r.started(1), "small1") // it passes big
	r.enter("tall", 10, Need{Slots: 3})
	r.want(r.started(0), "")
	r.leave("running")
	r.want(r.started(1), "tall")
	r.leave("small1")
	r.enter("small2", 1, Need{Slots: 1})
	r.enter("small3", 1, Need{Slots: 1})
	r.want(r.started(1), "small2") // big needs 5 of 6, which leaves 1 for those that pass it
	r.leave("tall")
	r.want(r.started(1), "big")
}

func TestLimiterClampsANeed(t *testing.T) {
	r := newRoom(t, 2, 10)
	r.enter("a", 2, Need{Slots: 8, Memory: 100})
	r.want(r.started(1), "a")
	r.enter("b", 1, Need{Slots: 1})
	r.want(r.started(0), "")
	r.leave("a")
	r.want(r.started(1), "b")
}

func TestLimiterAbandonedWaiter(t *testing.T) {
	r := newRoom(t, 1, 10)
	r.enter("a", 1, Need{Slots: 1, Memory: 10})
	r.want(r.started(1), "a")
	r.enter("b", 9, Need{Slots: 1, Memory: 10})
	r.enter("c", 1, Need{Slots: 1})
	r.cancel["b"]()
	for r.waiting() > 1 {
		time.Sleep(100 * time.Microsecond)
	}
	r.leave("a")
	r.want(r.started(1), "c")
	r.leave("c")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.limiter.acquire(ctx, &Task{}, Need{Slots: 1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if r.limiter.used != (Need{}) || len(r.limiter.waiters) > 0 {
		t.Errorf("used %v, %d waiters", r.limiter.used, len(r.limiter.waiters))
	}
}

func TestNeedOfResources(t *testing.T) {
	for _, c := range []struct {
		r    *pb.LinuxResources
		want Need
	}{
		{nil, Need{Slots: 1, Memory: 0}},
		{&pb.LinuxResources{Memory: 512, CpuShares: 2048}, Need{Slots: 1, Memory: 512}},
		{&pb.LinuxResources{Memory: -1}, Need{Slots: 1, Memory: 0}},
		{&pb.LinuxResources{CpuQuota: 250_000}, Need{Slots: 3, Memory: 0}},
		{&pb.LinuxResources{CpuQuota: 10_000, CpuPeriod: 50_000}, Need{Slots: 1, Memory: 0}},
		{&pb.LinuxResources{CpusetCpus: "0-2,7"}, Need{Slots: 4, Memory: 0}},
		{&pb.LinuxResources{CpusetCpus: "0-2,7", CpuQuota: 200_000}, Need{Slots: 2, Memory: 0}},
		{&pb.LinuxResources{CpusetCpus: "3-1"}, Need{Slots: 1, Memory: 0}},
		{&pb.LinuxResources{CpusetCpus: "all"}, Need{Slots: 1, Memory: 0}},
	} {
		if got := NeedOf(c.r); got != c.want {
			t.Errorf("%v: %v, want %v", c.r, got, c.want)
		}
	}
}
