package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

func TestKernel(t *testing.T) {
	found(t, kernel(release, sandbox.MissingCalls)).want(t, OK, "Linux ", "")
	found(t, kernel(func() string { return "6.1.0-28-amd64" }, sandbox.MissingCalls)).
		want(t, Warning, "6.1.0-28-amd64: a step can have only about 12 layers", "Linux 6.5")
	place{Check: "kernel", Absent: "mount_setattr"}.in(t).want(t, Failure, "lacks mount_setattr", "Linux 5.12")
	place{Check: "kernel", Absent: "close_range"}.in(t).want(t, Failure, "close_range", "Linux 5.12")
}

func TestClock(t *testing.T) {
	found(t, clock(time.Now)).want(t, OK, "UTC", "")
	found(t, clock(func() time.Time { return time.Unix(0, 0) })).want(t, Failure, "1970-01-01", "NTP")
}

func TestOpenFiles(t *testing.T) {
	found(t, openFiles()).want(t, OK, "at most", "")
	place{Check: "open files", Files: 256}.in(t).want(t, Warning, "at most 256", "1024")
	place{Check: "open files", Files: 48}.in(t).want(t, Failure, "at most 48", "1024")
}

func TestGit(t *testing.T) {
	found(t, git()).want(t, OK, "2.", "")
	t.Setenv("PATH", t.TempDir())
	found(t, git()).want(t, Warning, "not in PATH", "install")
	script(t, filepath.Join(os.Getenv("PATH"), "git"), "exit 127")
	found(t, git()).want(t, Warning, "exit status 127", "repair")
	script(t, filepath.Join(os.Getenv("PATH"), "git"), "/bin/sleep 60")
	found(t, git()).want(t, Warning, "no answer", "repair")
}

// script writes an executable shell script.
func script(t *testing.T, path, commands string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+commands+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// someLimits is a machine with cgroups of version 2 that allows some limits. Tests cannot move the controllers of a
// machine from one version to the other.
type someLimits struct{ memory bool }

func (s someLimits) Check(l sandbox.Limits) (bool, error) {
	if l.Memory > 0 && !s.memory {
		return true, errors.New("cgroup.controllers does not list the controller memory")
	}
	return true, nil
}

// TestCgroupDelegation shows version 2 with all controllers, and with those that systemd delegates to users by default.
func TestCgroupDelegation(t *testing.T) {
	found(t, cgroups(someLimits{memory: true})).want(t, OK, "version 2; steps can have limits", "")
	f := found(t, cgroups(someLimits{}))
	f.want(t, Warning, "version 2; targets cannot have resources: cgroup.controllers does not", "Delegate=yes")
	if strings.Contains(f.Detail, "processes of steps are not limited") {
		t.Errorf("%q: the number of processes is limited", f.Detail)
	}
}

// TestCgroups runs the check where cgroups are writable, where they are not, and with version 2 only. There, the
// controllers that version 1 has are missing.
func TestCgroups(t *testing.T) {
	good := place{Check: "cgroups"}.in(t)
	if good.Status != OK {
		lack(t, "needs writable cgroups: "+good.Detail)
	}
	good.want(t, OK, "steps can have limits", "")
	attr, _ := ordinary(t)
	place{Check: "cgroups", attr: attr, Cache: owned(t, attr)}.in(t).
		want(t, Warning, "targets cannot have resources, and the processes", "run as root")
	if err := mountable(t, "cgroup2"); err != nil {
		lack(t, err.Error())
	}
	unified := "mount -t cgroup2 none /sys/fs/cgroup\nmount -o remount,ro,bind /sys/fs/cgroup"
	place{Check: "cgroups", Setup: unified}.in(t).
		want(t, Warning, "version 2", "Delegate=yes")
}
