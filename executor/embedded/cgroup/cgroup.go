// Package cgroup limits the resources of steps with cgroups, version 1 or 2. It creates them where the limits of
// this process apply too. Groups implements sandbox.Limiter.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// prefix is the start of the names of our groups. The id of the process that created the group, "-" and a number
// follow.
const prefix = "bake-"

// Groups creates the cgroups of steps. Its methods may be called at the same time.
type Groups struct {
	next  atomic.Int64
	sweep sync.Once

	mu  sync.Mutex
	own map[string]string // version 1: the group of this process, by controller
}

// manager holds the operations that both versions have.
type manager interface {
	Apply(pid int) error
	Set(r *cgroups.Resources) error
	OOMKillCount() (uint64, error)
	Path(controller string) string
	Destroy() error
}

// group is the cgroup of one step.
type group struct {
	manager
	memory bool // it has a memory limit
}

// Limit moves a process to a new group, in which all its descendants start. The error says which file cannot be
// written.
func (g *Groups) Limit(pid int, limits sandbox.Limits) (sandbox.Group, error) {
	r := resources(limits)
	needed := controllers(limits)
	m, err := g.newManager(r, needed)
	if err != nil {
		return nil, err
	}
	if err := m.Apply(pid); err != nil {
		err = fmt.Errorf("create a cgroup for %s: %w", strings.Join(needed, ", "), err)
		return nil, errors.Join(err, m.Destroy())
	}
	if err := m.Set(r); err != nil {
		return nil, errors.Join(fmt.Errorf("set limits: %w", err), m.Destroy())
	}
	return &group{m, limits.Memory > 0}, nil
}

// Exceeded reports whether the kernel killed a process because the group exceeded its memory limit.
func (g *group) Exceeded() bool {
	if !g.memory {
		return false
	}
	n, err := g.OOMKillCount()
	return err == nil && n > 0
}

// Close removes the group. Its processes must have ended.
func (g *group) Close() error { return g.Destroy() }

// WorkerGroup creates a group that limits the number of processes and threads that the calling thread starts. In
// version 1 it moves the thread itself to the group, because moving a process later has to wait for the kernel; the
// limit is one higher, for the thread. The caller must be locked to its thread, or unrelated goroutines would run in
// the group.
func (g *Groups) WorkerGroup(pids int64) (sandbox.WorkerGroup, error) {
	limits := sandbox.Limits{Pids: pids}
	unified := cgroups.IsCgroup2UnifiedMode()
	if !unified {
		limits.Pids++
	}
	r := resources(limits)
	m, err := g.newManager(r, controllers(limits))
	if err != nil {
		return nil, err
	}
	w := &workerGroup{manager: m}
	if err = m.Apply(-1); err == nil { // creates the group without a process
		err = m.Set(r)
	}
	if err == nil {
		err = w.enter(unified)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create a cgroup for pids: %w", err), w.Close())
	}
	return w, nil
}

// workerGroup implements sandbox.WorkerGroup.
type workerGroup struct {
	manager
	dir   *os.File // version 2: the group, for FD
	tasks string   // version 1: the tasks file of the parent group, to which Close moves the thread back
}

// enter makes processes that the calling thread starts, start in the group: with FD, or by moving the thread.
func (w *workerGroup) enter(unified bool) (err error) {
	if unified {
		w.dir, err = os.Open(w.Path(""))
		return err
	}
	p := w.Path("pids")
	if err := os.WriteFile(filepath.Join(p, "tasks"), []byte(strconv.Itoa(unix.Gettid())), 0); err != nil {
		return err
	}
	w.tasks = filepath.Join(filepath.Dir(p), "tasks")
	return nil
}

// FD implements sandbox.WorkerGroup.
func (w *workerGroup) FD() int {
	if w.dir == nil {
		return -1
	}
	return int(w.dir.Fd())
}

// Close moves the thread out of the group and removes the group. The thread that created it must call it.
func (w *workerGroup) Close() error {
	var err error
	if w.dir != nil {
		err = w.dir.Close()
	}
	if w.tasks != "" {
		err = os.WriteFile(w.tasks, []byte(strconv.Itoa(unix.Gettid())), 0)
	}
	return errors.Join(err, w.Destroy())
}

func resources(l sandbox.Limits) *cgroups.Resources {
	r := &cgroups.Resources{
		Memory: l.Memory, MemorySwap: l.MemorySwap,
		CpuShares: l.CPUShares, CpuPeriod: l.CPUPeriod, CpuQuota: l.CPUQuota,
		CpuWeight:  cgroups.ConvertCPUSharesToCgroupV2Value(l.CPUShares),
		CpusetCpus: l.CPUs, CpusetMems: l.Mems,
		SkipDevices: true,
	}
	if l.Pids > 0 {
		r.PidsLimit = &l.Pids
	}
	return r
}

// controllers returns the controllers that limits need.
func controllers(l sandbox.Limits) []string {
	var list []string
	if l.Pids > 0 {
		list = append(list, "pids")
	}
	if l.Memory != 0 || l.MemorySwap != 0 {
		list = append(list, "memory")
	}
	if l.CPUShares != 0 || l.CPUPeriod != 0 || l.CPUQuota != 0 {
		list = append(list, "cpu")
	}
	if l.CPUs != "" || l.Mems != "" {
		list = append(list, "cpuset")
	}
	return list
}

// newManager returns the manager of a new group, which does not exist yet. The first call removes groups that killed
// processes left behind.
func (g *Groups) newManager(r *cgroups.Resources, needed []string) (manager, error) {
	name := prefix + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(g.next.Add(1), 10)
	if cgroups.IsCgroup2UnifiedMode() {
		parent, err := parent2()
		if err != nil {
			return nil, err
		}
		if err := requireControllers(filepath.Join(parent, "cgroup.controllers"), needed); err != nil {
			return nil, err
		}
		g.sweep.Do(func() { sweep(parent) })
		return fs2.NewManager(&cgroups.Cgroup{Resources: r}, filepath.Join(parent, name))
	}
	paths := map[string]string{}
	for _, c := range needed {
		parent, err := g.ownPath(c)
		if err != nil {
			return nil, fmt.Errorf("find the cgroup of %s: %w", c, err)
		}
		paths[c] = filepath.Join(parent, name)
	}
	g.sweep.Do(func() {
		for _, p := range paths {
			sweep(filepath.Dir(p))
		}
	})
	m, err := fs.NewManager(&cgroups.Cgroup{Resources: r}, paths)
	return &version1{m, needed}, err
}

// ownPath returns this process's group for a controller of version 1, as it was at the first call. Later calls must not
// ask the kernel: it reports the group of the process's first thread, which may be in a worker group by then. A group
// inside that one would share its limit and could not be removed (TestWorkerGroupOfFirstThread).
func (g *Groups) ownPath(controller string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p, ok := g.own[controller]; ok {
		return p, nil
	}
	p, err := cgroups.GetOwnCgroupPath(controller)
	if err != nil {
		return "", err
	}
	if g.own == nil {
		g.own = map[string]string{}
	}
	g.own[controller] = p
	return p, nil
}

// version1 sets only the limits of the controllers that have a group. The library's own Set visits all controllers, and
// one of them stores facts about the machine in a package variable without a lock, which is a data race of concurrent
// steps.
type version1 struct {
	*fs.Manager
	needed []string
}

func (v *version1) Set(r *cgroups.Resources) error {
	for _, c := range v.needed {
		var one interface {
			Set(path string, r *cgroups.Resources) error
		}
		switch c {
		case "pids":
			one = &fs.PidsGroup{}
		case "memory":
			one = &fs.MemoryGroup{}
		case "cpu":
			one = &fs.CpuGroup{}
		case "cpuset":
			one = &fs.CpusetGroup{}
		}
		if err := one.Set(v.Path(c), r); err != nil {
			return err
		}
	}
	return nil
}

// parent2 returns the directory in which groups of version 2 are created: the parent of this process's group, because a
// group with processes cannot contain limited groups. If this process is in the root group, to which that rule does not
// apply, it is the root group.
func parent2() (string, error) {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the cgroup: %w", err)
	}
	return filepath.Join("/sys/fs/cgroup", filepath.Dir(own[""])), nil
}

// requireControllers returns an error if the file does not list all needed controllers.
func requireControllers(file string, needed []string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("list the controllers: %w", err)
	}
	listed := strings.Fields(string(raw))
	for _, n := range needed {
		if !slices.Contains(listed, n) {
			return fmt.Errorf("%s does not list the controller %s", file, n)
		}
	}
	return nil
}

// sweep removes the groups of processes that do not exist any more, because they were killed.
func sweep(parent string) {
	list, err := filepath.Glob(filepath.Join(parent, prefix+"*-*"))
	if err != nil {
		return
	}
	for _, dir := range list {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if pid, err := strconv.Atoi(text); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			sweep(dir)
			_ = unix.Rmdir(dir) // the kernel refuses it if the group has processes
		}
	}
}
