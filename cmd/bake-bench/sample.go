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

// sample holds the measurements of one build.
type sample struct {
	wall time.Duration
	cpu  time.Duration // user and system time of all its processes
	peak int64         // peak resident memory in bytes, of client and daemon without the commands of steps
}

func (s sample) add(more sample) sample {
	return sample{s.wall + more.wall, s.cpu + more.cpu, s.peak + more.peak}
}

// measure runs a command. Its output is part of the error if it fails. The peak of a process starts with that of its
// parent, so measure frees this process's memory first.
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
		return s, fmt.Errorf("%s: resource usage is not available", filepath.Base(cmd.Path))
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	s.peak = usage.Maxrss << 10
	return s, nil
}

// resetPeak resets the peak memory of a process to its current memory.
func resetPeak(pid string) error {
	return os.WriteFile(filepath.Join("/proc", pid, "clear_refs"), []byte("5"), 0)
}

// peakOf returns the peak memory of a process since it was reset, in bytes.
func peakOf(pid string) (int64, error) {
	status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(status), "VmHWM:")
	if !found {
		return 0, fmt.Errorf("process %s: no VmHWM in its status", pid)
	}
	kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kilobytes << 10, err
}

// clockTick is the unit of CPU times in /proc.
const clockTick = time.Second / 100

// cpuOf returns the CPU time of a process and of its waited-for children.
func cpuOf(pid string) (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may contain any character. The times are the 12th to 15th field after it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 15 {
		return 0, fmt.Errorf("process %s: no CPU times in its stat file", pid)
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
