package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sample is what one build took.
type sample struct {
	wall time.Duration
	cpu  time.Duration // user and system, of all its processes
	peak int64         // bytes resident at the peak, of client and daemon without the commands of steps
}

func (s sample) add(more sample) sample {
	return sample{s.wall + more.wall, s.cpu + more.cpu, s.peak + more.peak}
}

// measure runs a command, and tells what it printed only if it fails. A process's peak begins with that of the process
// that started it, so this one is made small first.
func measure(cmd *exec.Cmd) (sample, error) {
	debug.FreeOSMemory()
	if err := resetPeak("self"); err != nil {
		return sample{}, err
	}
	started := time.Now()
	out, err := cmd.CombinedOutput()
	s := sample{wall: time.Since(started)}
	if err != nil {
		return s, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out[max(0, len(out)-4000):])
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return s, fmt.Errorf("%s: the system does not tell what it used", filepath.Base(cmd.Path))
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	s.peak = usage.Maxrss << 10
	return s, nil
}

// resetPeak makes the peak memory of a process what it has now.
func resetPeak(pid string) error {
	return os.WriteFile(filepath.Join("/proc", pid, "clear_refs"), []byte("5"), 0)
}

// peakOf is the peak memory of a process, in bytes, since it was reset.
func peakOf(pid string) (int64, error) {
	status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(status), "VmHWM:")
	if !found {
		return 0, fmt.Errorf("process %s: no peak memory is told", pid)
	}
	kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kilobytes << 10, err
}

// clockTick is the unit of processor times in /proc, the same on all of Linux.
const clockTick = time.Second / 100

// cpuOf is the processor time of a process and of its children that ended.
func cpuOf(pid string) (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything; the times are the 12th to 15th field after it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 15 {
		return 0, fmt.Errorf("process %s: its times are not told", pid)
	}
	var sum time.Duration
	for _, f := range fields[11:15] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ticks) * clockTick
	}
	return sum, nil
}
