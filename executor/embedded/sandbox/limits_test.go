package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"

	"github.com/bakebuild/bake/executor/embedded/cgroup"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// limiter is the real Limiter. It records the contents of the last group's files when the group was created.
type limiter struct {
	next  cgroup.Groups
	files map[string]string
}

func (l *limiter) Limit(pid int, limits sandbox.Limits) (sandbox.Group, error) {
	g, err := l.next.Limit(pid, limits)
	l.files = map[string]string{}
	for _, f := range groupFiles() {
		if raw, err := os.ReadFile(f); err == nil {
			l.files[filepath.Base(f)] = strings.TrimSpace(string(raw))
		}
	}
	return g, err
}

func (l *limiter) WorkerGroup(pids int64) (sandbox.WorkerGroup, error) {
	return l.next.WorkerGroup(pids)
}

// groupFiles returns the paths of the files of this process's groups.
func groupFiles() []string {
	var all []string
	for _, depth := range []string{"", "*/", "*/*/", "*/*/*/", "*/*/*/*/"} {
		found, err := filepath.Glob("/sys/fs/cgroup/" + depth + "bake-" + strconv.Itoa(os.Getpid()) + "-*/*")
		if err == nil {
			all = append(all, found...)
		}
	}
	return all
}

func newLimited(t *testing.T) (*box, *limiter) {
	b := newBox(t)
	l := &limiter{}
	b.sandbox.Limiter, b.sandbox.Idle = l, time.Millisecond
	s := b.spec("true")
	s.Limits = sandbox.Limits{Pids: 100, Memory: 64 << 20, CPUQuota: 50000, CPUs: "0"}
	_, err := b.runSpec(t, s)
	var no *sandbox.UnavailableError
	if errors.As(err, &no) {
		skip(t, err.Error())
	}
	check(t, err)
	return b, l
}

// TestLimits checks that limits are applied, that the step's cgroup namespace hides its group, and that groups are
// removed.
func TestLimits(t *testing.T) {
	b, l := newLimited(t)
	for _, c := range []struct {
		name, command, want string
		limits              sandbox.Limits
	}{
		{"processes", "for i in $(seq 80); do sleep 9 & done; echo all", "can't fork", sandbox.Limits{Pids: 64}},
		{"processors", "grep Cpus_allowed_list: /proc/self/status", "Cpus_allowed_list:\t0\n",
			sandbox.Limits{CPUs: "0"}},
		{"own group", "grep -v :/$ /proc/self/cgroup | grep bake-; echo none", "none\n", sandbox.Limits{Pids: 64}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := b.spec(c.command)
			s.Limits = c.limits
			out, err := b.runSpec(t, s)
			if !strings.Contains(out, c.want) || strings.Contains(out, "all\n") {
				t.Errorf("got %q %v", out, err)
			}
		})
	}
	s := b.spec("true")
	s.Limits = sandbox.Limits{CPUShares: 512, CPUPeriod: 100000, CPUQuota: 50000}
	if _, err := b.runSpec(t, s); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"cpu.shares": "512", "cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}
	if cgroups.IsCgroup2UnifiedMode() {
		weight := cgroups.ConvertCPUSharesToCgroupV2Value(512)
		want = map[string]string{"cpu.weight": strconv.FormatUint(weight, 10), "cpu.max": "50000 100000"}
	}
	for name, value := range want {
		if l.files[name] != value {
			t.Errorf("%s is %q, want %q", name, l.files[name], value)
		}
	}
	for range 1000 {
		if len(groupFiles()) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("groups are left: %v", groupFiles())
}

// TestMemoryLimit checks that a step killed for its memory limit is reported, and that the next one is not affected.
func TestMemoryLimit(t *testing.T) {
	b, _ := newLimited(t)
	s := b.spec("dd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null; true")
	s.Limits = sandbox.Limits{Memory: 20 << 20, MemorySwap: 20 << 20}
	b.reset(t)
	res, err := b.sandbox.Run(t.Context(), s)
	if err != nil || !res.Exceeded {
		t.Errorf("got %+v %v", res, err)
	}
	s.Args = []string{"/bin/true"}
	b.reset(t)
	if res, err := b.sandbox.Run(t.Context(), s); err != nil || res != (sandbox.Result{}) {
		t.Errorf("got %+v %v", res, err)
	}
}

// noGroups is the Limiter of a machine without writable cgroups.
type noGroups struct{}

func (noGroups) Limit(int, sandbox.Limits) (sandbox.Group, error) {
	return nil, errors.New("read-only file system")
}

func (noGroups) WorkerGroup(int64) (sandbox.WorkerGroup, error) {
	return nil, errors.New("read-only file system")
}

// TestNoLimits checks that a step is refused without cgroups only if it has limits other than Pids.
func TestNoLimits(t *testing.T) {
	b := newBox(t)
	b.sandbox.Limiter = noGroups{}
	s := b.spec("echo ok")
	s.Limits = sandbox.Limits{Pids: 100}
	if out, err := b.runSpec(t, s); err != nil || out != "ok\n" {
		t.Errorf("got %q %v", out, err)
	}
	s.Limits.Memory = 1 << 30
	var no *sandbox.UnavailableError
	out, err := b.runSpec(t, s)
	if !errors.As(err, &no) || !strings.Contains(err.Error(), "limit the step's resources") {
		t.Errorf("got %q %v", out, err)
	}
}
