package schedule

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/buildkit/solver/pb"
)

// NeedOf returns the need of a step with these resource limits: as many slots as the step may use processors, and the
// memory that it is limited to. A step without limits uses one slot and memory that is not counted.
func NeedOf(r *pb.LinuxResources) Need {
	return Need{Slots: cpusOf(r), Memory: max(r.GetMemory(), 0)}
}

// OpenFiles returns how many files this process may have open. The runtime has raised the soft limit to the hard one
// when the program started; programs that it starts get the soft limit back.
func OpenFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}

// defaultPeriod is the default period of a processor quota, in microseconds.
const defaultPeriod = 100_000

// cpusOf returns how many processors a step may use at most; 1 without a limit.
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

// countCPUs counts the processors in a list such as 0-3,6. It returns 0 for an invalid list: reporting that is left to
// the code that applies the limit.
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

// AvailableMemory returns the memory, in bytes, that steps may use on this machine now: what the kernel reports as
// available, within the limit of the cgroup that this process sees as its root. If neither is known, it is unlimited.
func AvailableMemory() int64 {
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
