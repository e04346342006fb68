package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// UnavailableError says that this machine, or this user on it, cannot have a sandbox.
type UnavailableError struct {
	What string // what was tried
	Hint string // how to get it
	Err  error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("no sandbox for steps can be made here: %s: %v\n%s", e.What, e.Err, e.Hint)
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// hintNamespaces says how namespaces are allowed.
const hintNamespaces = "Run as root, or let ordinary users make namespaces: sysctl user.max_user_namespaces must not be 0, " +
	"and kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0 where the kernel has them. " +
	"Inside a container it needs: --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined, or --privileged."

// hintNetwork says what a network of a step's own needs.
const hintNetwork = "A network of the step's own needs the kernel's virtual cables: load the module veth, or build with --network none."

// hintLimits says where limits can be set.
const hintLimits = "Limits need control groups that can be written: run as root, or as a user to whom they are delegated " +
	"(systemd-run --user --scope --property=Delegate=yes bake ...), or leave out the target's resources."

// refused says whether an error means that the machine does not allow something, rather than that it failed.
func refused(err error) bool {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.ENODEV, unix.EUSERS, unix.ENOSPC} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// setupError is what the init stage could not do, as it travels to the parent.
type setupError struct {
	What    string
	Err     string
	Errno   int
	Refused bool // a matter of what the machine allows
	Exec    bool // the command itself could not be started
}

func (e *setupError) Error() string { return e.What + ": " + e.Err }

// Unwrap is the system's error, if it was one.
func (e *setupError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return unix.Errno(e.Errno)
}

// stageError names a step of the set-up.
func stageError(what string, err error) error {
	if err == nil {
		return nil
	}
	s := &setupError{What: what, Err: err.Error()}
	var errno unix.Errno
	if errors.As(err, &errno) {
		s.Errno = int(errno)
	}
	return s
}

// mountRefused marks a failure to mount, which is mostly a matter of permission.
func mountRefused(what string, err error) error {
	if err == nil {
		return nil
	}
	s := stageError(what, err).(*setupError)
	s.Refused = refused(err)
	return s
}
