package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hintError is an error of this machine with its own hint.
type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

// withHint adds a hint to an error that means that the machine does not allow an operation.
func withHint(err error, hint string) error {
	if err == nil || !refused(err) {
		return err
	}
	return &hintError{err, hint}
}

// UnavailableError reports that this machine, or this user on it, cannot create a sandbox.
type UnavailableError struct {
	What string // the operation, such as "create a user namespace"
	Hint string // how the machine can allow it
	Err  error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("cannot create a sandbox for steps: %s: %v\n%s", e.What, e.Err, e.Hint)
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// hintNamespaces returns how to allow namespaces. It names only the settings that forbid them on this machine.
func hintNamespaces() string {
	var wrong []string
	for _, setting := range []struct{ file, forbids, remedy string }{
		{"user/max_user_namespaces", "0", "user.max_user_namespaces=15000"},
		{"kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		value, err := os.ReadFile(filepath.Join("/proc/sys", setting.file))
		if err == nil && strings.TrimSpace(string(value)) == setting.forbids {
			wrong = append(wrong, setting.remedy)
		}
	}
	hint := hintContainer
	if os.Geteuid() != 0 {
		hint = "run as root; " + hint
	}
	if len(wrong) > 0 {
		hint += "\nor allow unprivileged user namespaces: sysctl -w " + strings.Join(wrong, " ")
	}
	return hint
}

// containerFlags are the flags of docker run that let an unprivileged container create sandboxes. The README shows
// them.
const containerFlags = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined " +
	"--security-opt systempaths=unconfined"

// hintContainer says how to allow sandboxes in a container.
const hintContainer = "in a container, add " + containerFlags + ", or --privileged"

// hintProc explains why the kernel refuses a new /proc in a user namespace.
const hintProc = "parts of /proc are hidden, so the kernel allows no new one in a user namespace; " + hintContainer

// hintPivot explains why pivot_root is refused.
const hintPivot = "a seccomp profile refuses pivot_root, also with --cap-add SYS_ADMIN; " + hintContainer

// hintNetwork explains what the network of a step needs.
const hintNetwork = "the network of a step needs virtual Ethernet devices; load the kernel module veth, " +
	"or set network = \"none\" in the target"

// hintLimits explains what limits need.
const hintLimits = "limits need writable cgroups; run as root, remove the target's resources, " +
	"or delegate cgroups to this user, by running: systemd-run --user --scope --property=Delegate=yes bake build"

// shortage returns what to do about an error that means that this machine or user has no more of something, or "".
func shortage(err error) string {
	switch {
	case errors.Is(err, unix.EAGAIN):
		return "run fewer steps at once with -j, or raise the limit of processes (ulimit -u, pids.max of the cgroup)"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "run fewer steps at once with -j, or raise the limit of open files (ulimit -n)"
	case errors.Is(err, unix.ENOMEM):
		return "run fewer steps at once with -j, or free memory"
	}
	return ""
}

// refused reports whether an error means that the machine does not allow an operation, rather than that the operation
// failed.
func refused(err error) bool {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.ENODEV, unix.EUSERS, unix.ENOSPC} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// setupError is an error of the init process, which sends it to its parent as JSON.
type setupError struct {
	What    string // the operation that failed
	Err     string
	Errno   int  // 0 if it was not an error of the system
	Refused bool // the machine does not allow the operation
	Hint    string
	Exec    bool // the operation is the start of the command
}

func (e *setupError) Error() string { return e.What + ": " + e.Err }

// Unwrap returns the system's error, or nil.
func (e *setupError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return unix.Errno(e.Errno)
}

// wrapSetup returns a setupError for a failed operation, or nil if err is nil.
func wrapSetup(what string, err error) error {
	if err == nil {
		return nil
	}
	s := &setupError{What: what, Err: err.Error()}
	var errno unix.Errno
	if errors.As(err, &errno) {
		s.Errno = int(errno)
	}
	if own, ok := errors.AsType[*hintError](err); ok {
		s.Refused, s.Hint = true, own.hint
	}
	return s
}

// wrapMount is wrapSetup for an operation that needs privileges, such as a mount, or a recent kernel.
func wrapMount(what string, err error) error {
	if err == nil {
		return nil
	}
	s := wrapSetup(what, err).(*setupError)
	s.Refused = s.Refused || refused(err)
	return s
}
