// Package cgroup limits what a step takes of the machine, in control groups of version 1 or 2 inside the one that this
// process is in, so that what limits this process limits its steps too.
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

	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
)

// prefix begins the names of our groups: then come the process that made one, and a number.
const prefix = "bake-"

// Groups makes a group for each step.
type Groups struct {
	next  atomic.Int64
	sweep sync.Once

	mu  sync.Mutex
	own map[string]string // of version 1: where this process is, by controller
}

// manager is what the two versions have in common.
type manager interface {
	Apply(pid int) error
	Set(r *cgroups.Resources) error
	OOMKillCount() (uint64, error)
	Path(controller string) string
	Destroy() error
}

// group is the group of one step.
type group struct {
	manager
	memory bool
}

// Limit puts a process and all that it will start into a new group. The error is about what cannot be written here.
func (g *Groups) Limit(pid int, limits sandbox.Limits) (sandbox.Group, error) {
	r := resources(limits)
	needed := controllers(limits)
	m, err := g.newManager(r, needed)
	if err != nil {
		return nil, err
	}
	if err := m.Apply(pid); err != nil {
		return nil, errors.Join(fmt.Errorf("make a control group for %s: %w", strings.Join(needed, ", "), err), m.Destroy())
	}
	if err := m.Set(r); err != nil {
		return nil, errors.Join(fmt.Errorf("set limits: %w", err), m.Destroy())
	}
	return &group{m, limits.Memory > 0}, nil
}

// Exceeded says whether a process was killed because the group took more memory than it may.
func (g *group) Exceeded() bool {
	if !g.memory {
		return false
	}
	n, err := g.OOMKillCount()
	return err == nil && n > 0
}

// Close removes the group, whose processes have ended.
func (g *group) Close() error { return g.Destroy() }

// Standing makes a group that bounds the number of processes and threads of what the calling thread starts. In version 1 the
// thread itself is in it, since a process that joins a group later waits for the kernel, and counts as one.
func (g *Groups) Standing(pids int64) (sandbox.Standing, error) {
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
	s := &standing{manager: m}
	if err = m.Apply(-1); err == nil { // which makes it and puts nobody in
		err = m.Set(r)
	}
	if err == nil {
		err = s.enter(unified)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a control group for pids: %w", err), s.Close())
	}
	return s, nil
}

// standing is a group for one step after another.
type standing struct {
	manager
	dir    *os.File // of version 2
	thread string   // of version 1: the file that takes back the thread
}

// enter gets ready what makes processes start in the group.
func (s *standing) enter(unified bool) (err error) {
	if unified {
		s.dir, err = os.Open(s.Path(""))
		return err
	}
	p := s.Path("pids")
	if err := os.WriteFile(filepath.Join(p, "tasks"), []byte(strconv.Itoa(unix.Gettid())), 0); err != nil {
		return err
	}
	s.thread = filepath.Join(filepath.Dir(p), "tasks")
	return nil
}

// FD implements sandbox.Standing.
func (s *standing) FD() int {
	if s.dir == nil {
		return -1
	}
	return int(s.dir.Fd())
}

// Close takes the thread out of the group and removes it.
func (s *standing) Close() error {
	var err error
	if s.dir != nil {
		err = s.dir.Close()
	}
	if s.thread != "" {
		err = os.WriteFile(s.thread, []byte(strconv.Itoa(unix.Gettid())), 0)
	}
	return errors.Join(err, s.Destroy())
}

func resources(l sandbox.Limits) *cgroups.Resources {
	r := &cgroups.Resources{
		Memory: l.Memory, MemorySwap: l.MemorySwap, CpuShares: l.CPUShares, CpuPeriod: l.CPUPeriod, CpuQuota: l.CPUQuota,
		CpusetCpus: l.CPUs, CpusetMems: l.Mems, CpuWeight: cgroups.ConvertCPUSharesToCgroupV2Value(l.CPUShares),
		SkipDevices: true,
	}
	if l.Pids > 0 {
		r.PidsLimit = &l.Pids
	}
	return r
}

// controllers lists what limits need.
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

// newManager makes the manager of a group that does not exist yet.
func (g *Groups) newManager(r *cgroups.Resources, needed []string) (manager, error) {
	name := prefix + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(g.next.Add(1), 10)
	if cgroups.IsCgroup2UnifiedMode() {
		parent, err := parent2()
		if err != nil {
			return nil, err
		}
		if err := has(filepath.Join(parent, "cgroup.controllers"), needed); err != nil {
			return nil, err
		}
		g.sweep.Do(func() { sweep(parent) })
		return fs2.NewManager(&cgroups.Cgroup{Resources: r}, filepath.Join(parent, name))
	}
	paths := map[string]string{}
	for _, c := range needed {
		parent, err := g.ownPath(c)
		if err != nil {
			return nil, fmt.Errorf("find the control group of %s: %w", c, err)
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

// ownPath is where this process is for a controller of version 1, as it was first found: what the kernel says of the process is said of
// its first thread, which may be in a standing group since.
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

// version1 sets the limits of the controllers that have a group and asks no other: one of the library's remembers what it
// found of the machine in a variable of the package, which several steps at once may not touch.
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

// parent2 is where groups of version 2 are made: beside the one of this process, since one that has processes can have no
// limited groups in it; in it, if it is the root of the tree, for which that does not hold.
func parent2() (string, error) {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the control group: %w", err)
	}
	return filepath.Join("/sys/fs/cgroup", filepath.Dir(own[""])), nil
}

// has checks that controllers are listed in a file.
func has(file string, needed []string) error {
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

// sweep removes groups that were left behind by processes which were killed.
func sweep(parent string) {
	list, err := filepath.Glob(filepath.Join(parent, prefix+"*-*"))
	if err != nil {
		return
	}
	for _, dir := range list {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if pid, err := strconv.Atoi(text); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			sweep(dir)
			_ = unix.Rmdir(dir) // refused where processes are left
		}
	}
}
