package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// facts returns a line about the machine and the programs, to print above the table.
func facts(o options) string {
	all := []string{
		fmt.Sprintf("Medians of %d rounds", o.rounds),
		fmt.Sprintf("%d CPUs (%s)", runtime.NumCPU(), field("/proc/cpuinfo", "model name")),
		"memory " + field("/proc/meminfo", "MemTotal"),
		"Linux " + kernel(),
		fileSystem(o.dir),
		runtime.Version(),
	}
	if o.peers != "" {
		all = append(all, "buildkitd "+version(filepath.Join(o.peers, "buildkitd"), "github.com/moby/buildkit"),
			"buildx "+version(filepath.Join(o.peers, "buildx"), "github.com/docker/buildx"))
	}
	load, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(append(all, "load at the end "+strings.Join(strings.Fields(string(load) + " ?")[:1], "")), ", ")
}

// field returns the first value of a name in a file of /proc, or "unknown".
func field(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func fileSystem(dir string) string {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return "unknown file system"
	}
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "journaled ext4"
	case unix.XFS_SUPER_MAGIC:
		return "XFS"
	case unix.BTRFS_SUPER_MAGIC:
		return "Btrfs"
	}
	return fmt.Sprintf("file system %#x", fs.Type)
}

// version returns the version of a module in a program, as its main module or a dependency.
func version(program, module string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "unknown"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module {
			return m.Version
		}
	}
	return "unknown"
}
