package doctor

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// release returns the kernel's release, such as 6.8.0-45-generic.
func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// kernel checks that the kernel has the system calls of a step.
func kernel(release func() string, missing func() []string) Check {
	return Check{Name: "kernel", Run: func(context.Context) Finding {
		version, calls := release(), missing()
		var major, minor int
		_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
		switch {
		case len(calls) > 0:
			return fail("Linux "+version+" lacks "+strings.Join(calls, ", "),
				"use Linux 5.12 or later, and a container runtime that allows these system calls")
		case err == nil && (major < 6 || major == 6 && minor < 5):
			return warn("Linux "+version+": a step can have only about 12 layers", "use Linux 6.5 or later")
		}
		return okf("Linux %s", version)
	}}
}

// earliest is the earliest time that a clock can show: this program is newer.
func earliest() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// clock checks that the clock is not before the time of this program.
func clock(now func() time.Time) Check {
	return Check{Name: "clock", Run: func(context.Context) Finding {
		at := now().UTC()
		if at.Before(earliest()) {
			return fail("the clock shows "+at.Format(time.DateTime)+" UTC, when no certificate was valid yet",
				"set the clock, for example by starting an NTP service")
		}
		return okf("%s UTC", at.Format(time.DateTime))
	}}
}

// The number of open files that most builds need, and that a build of many targets can use.
const leastOpen, wantOpen = 64, 1024

// openFiles checks the hard limit of open files, to which a build raises the soft one.
func openFiles() Check {
	return Check{Name: "open files", Run: func(context.Context) Finding {
		var l syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
			return fail("the limit of open files cannot be read: "+err.Error(), "")
		}
		fix := fmt.Sprintf("raise the hard limit to %d or more: ulimit -Hn as root, LimitNOFILE= of a service, "+
			"or --ulimit nofile of a container", wantOpen)
		switch {
		case l.Max < leastOpen:
			return fail(fmt.Sprintf("at most %d, which is too few for most builds", l.Max), fix)
		case l.Max < wantOpen:
			return warn(fmt.Sprintf("at most %d, so that fewer steps run at once", l.Max), fix)
		}
		return okf("at most %d", l.Max)
	}}
}

// git checks that the git program starts.
func git() Check {
	return Check{Name: "git", Run: func(ctx context.Context) Finding {
		path, err := exec.LookPath("git")
		if err != nil {
			return warn("git is not in PATH", "install it to build from git repositories")
		}
		cmd := exec.CommandContext(ctx, path, "--version")
		cmd.WaitDelay = grace / 2
		out, err := cmd.Output()
		if err != nil {
			return warn(path+" does not work: "+late(ctx, err), "repair it to build from git repositories")
		}
		return okf("%s", strings.TrimPrefix(strings.TrimSpace(string(out)), "git version "))
	}}
}

// resources returns limits of every kind that a target can have.
func resources() sandbox.Limits {
	return sandbox.Limits{Pids: 64, Memory: 64 << 20, CPUShares: 512}
}

// limiter is the part of cgroup.Groups that the check uses.
type limiter interface {
	Check(limits sandbox.Limits) (unified bool, err error)
}

// cgroups checks that groups with limits can be created.
func cgroups(g limiter) Check {
	return Check{Name: "cgroups", Run: func(context.Context) Finding {
		unified, err := g.Check(resources())
		version, fix := "version 1", "run as root with writable cgroups, or use version 2"
		if unified {
			version, fix = "version 2", "run as root, or delegate cgroups to this user, by running: "+
				"systemd-run --user --scope --property=Delegate=yes bake build"
		}
		if err == nil {
			return okf("%s; steps can have limits", version)
		}
		if _, pidsErr := g.Check(sandbox.Limits{Pids: 64}); pidsErr == nil {
			return warn(version+"; targets cannot have resources: "+err.Error(), fix)
		}
		return warn(version+"; targets cannot have resources, and the processes of steps are not limited: "+err.Error(),
			fix)
	}}
}
