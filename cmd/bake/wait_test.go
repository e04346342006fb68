package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// untilDeadline returns a context that ends shortly before the test binary times out. Tests wait for events under it,
// not under a limit of their own: a slow machine does not fail them, and what hangs is still reported with its output.
func untilDeadline(t *testing.T) context.Context {
	t.Helper()
	deadline, ok := t.Deadline()
	if !ok {
		return t.Context()
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline.Add(-15*time.Second))
	t.Cleanup(cancel)
	return ctx
}

// service is a server process that runs until the test ends. ended is closed when the process has exited.
type service struct {
	process *exec.Cmd
	ended   chan struct{}
}

// startService starts a server and waits until ready reports true. The test fails with the content of the log file if
// the server exits before.
func startService(t *testing.T, cmd *exec.Cmd, log string, ready func() bool) *service {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s := &service{process: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the signal is sent when the thread that started the process ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the exit code after a signal does not matter
			close(s.ended)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	end := untilDeadline(t)
	for !ready() {
		select {
		case <-time.After(100 * time.Millisecond):
			continue
		case <-s.ended:
		case <-end.Done():
		}
		text, _ := os.ReadFile(log) // the error of a missing log adds nothing
		t.Fatalf("%s does not answer:\n%s", cmd.Path, text)
	}
	return s
}

// kill ends the server at once and waits for its end.
func (s *service) kill() {
	_ = s.process.Process.Kill() // it may have exited already
	<-s.ended
}

// answers returns a function that reports whether a server accepts connections at an address.
func answers(network, address string) func() bool {
	return func() bool {
		conn, err := net.Dial(network, address)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}
}

// reservePort returns a loopback port that only the test uses until it ends: a socket is bound to it that does not
// listen, so connections are refused. A server that sets SO_REUSEADDR, as Go does, can still listen there.
func reservePort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address, ok := name.(*unix.SockaddrInet4)
	if !ok {
		t.Fatalf("unexpected socket name %v", name)
	}
	return strconv.Itoa(address.Port)
}
