package embedded

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
)

// What steps take that never ran. They only decide what starts first.
const (
	unknownExec = 5 * time.Second
	unknownFile = 100 * time.Millisecond
	otherStep   = time.Millisecond
)

// weight is how long a step probably takes, by when it ran last.
func (n *node) weight() time.Duration {
	switch n.op.(type) {
	case *execStep, *testStep:
		return firstOf(n.result.Expected, unknownExec)
	case *fileStep:
		return firstOf(n.result.Expected, unknownFile)
	}
	return otherStep
}

func firstOf(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// need is what a step takes of the machine: as many slots as its target's resources give it processors, and the memory
// that they limit it to. A step without limits takes one slot, and memory that nobody counts.
func (n *node) need() need {
	r := n.step.Resources
	return need{slots: cpusOf(r), memory: max(r.GetMemory(), 0)}
}

// defaultPeriod is that of a processor quota, in microseconds.
const defaultPeriod = 100_000

// cpusOf is how many processors a step may use at most; 1 when nothing says.
func cpusOf(r *pb.LinuxResources) int {
	cpus := 0
	if quota := r.GetCpuQuota(); quota > 0 {
		period := r.GetCpuPeriod()
		if period == 0 {
			period = defaultPeriod
		}
		cpus = int(min(math.Ceil(float64(quota)/float64(period)), math.MaxInt16))
	}
	if set := countCPUs(r.GetCpusetCpus()); set > 0 && (cpus == 0 || set < cpus) {
		cpus = set
	}
	return max(cpus, 1)
}

// countCPUs counts a list such as 0-3,6; 0 when it is none. Whether it is right is for who sets it.
func countCPUs(list string) int {
	n := 0
	for _, part := range strings.Split(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.Atoi(first)
		b, errB := strconv.Atoi(last)
		if errA != nil || errB != nil || a < 0 || b < a || b > math.MaxInt16 {
			return 0
		}
		n += b - a + 1
	}
	return n
}

// availableMemory is what steps may take of this machine now, within the control group that this process sees as its
// root. Where nothing tells, nothing is counted.
func availableMemory() int64 {
	most := int64(math.MaxInt64)
	if raw, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range bytes.Lines(raw) {
			var kib int64
			if _, err := fmt.Sscanf(string(line), "MemAvailable: %d kB", &kib); err == nil {
				most = kib << 10
			}
		}
	}
	for _, file := range [...]string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && n > 0 {
			most = min(most, n)
		}
	}
	return most
}
