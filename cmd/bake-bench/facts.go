package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// facts is a line about the machine and the programs, for above the table.
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
		all = append(all, "buildkitd "+version(o.peers, "buildkitd", "--version"), "buildx "+version(o.peers, "buildx", "version"))
	}
	load, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(append(all, "load at the end "+strings.Join(strings.Fields(string(load) + " ?")[:1], "")), ", ")
}

// field is the first value of a name in a file of /proc, "unknown" without.
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

// version is what a program says of itself: the third word of buildkitd's line, the second of buildx's.
func version(dir, program, flag string) string {
	out, err := exec.Command(filepath.Join(dir, program), flag).Output()
	for word := range strings.FieldsSeq(string(out)) {
		if err == nil && strings.ContainsAny(word, "0123456789") {
			return word
		}
	}
	return "unknown"
}
