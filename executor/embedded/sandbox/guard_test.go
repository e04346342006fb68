package sandbox

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGuardThatDoesNotStart: the descriptor of a process is closed, also if there is no guard for it.
func TestGuardThatDoesNotStart(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sandbox{exe: f} // no program
	if err := s.guardProcess(&process{pidfd: fd}); err == nil {
		t.Fatal("a guard was started without a program")
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the descriptor is open: %v", err)
	}
}
