package sandbox

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnavailable shows which errors of the system mean that this machine cannot run steps, and what to do about each.
func TestUnavailable(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.EPERM: "--privileged", unix.EACCES: "--privileged", unix.ENOSYS: "--privileged",
		unix.ENOSPC: "--privileged", unix.EUSERS: "--privileged", unix.ENODEV: "--privileged",
		unix.EAGAIN: "ulimit -u", unix.EMFILE: "ulimit -n", unix.ENFILE: "ulimit -n", unix.ENOMEM: "free memory",
		unix.EINVAL: "", unix.ENOENT: "", unix.EIO: "",
	} {
		err := unavailable("do it", &fs.PathError{Op: "fork/exec", Path: "/proc/1/fd/9", Err: errno})
		var e *UnavailableError
		if got := errors.As(err, &e); got != (want != "") {
			t.Errorf("%v: unavailable %v", errno, got)
		} else if got && (!strings.Contains(e.Hint, want) || strings.Contains(err.Error(), "/proc/1")) {
			t.Errorf("%v: %v, want %q", errno, err, want)
		}
		if !errors.Is(err, errno) {
			t.Errorf("%v: the cause is lost: %v", errno, err)
		}
	}
}
