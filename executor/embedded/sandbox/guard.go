package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// guardName is the argument 0 with which this program starts itself as the guard of a sandbox.
const guardName = "bake-guard"

// guard is a process that outlives this one just long enough to kill its steps.
//
// The problem: steps must end with this process, also when it is killed. The parent-death signal of a step is not
// enough: the kernel clears it when the step's first process executes a setuid program, such as sudo.
//
// The idea: the guard gets a descriptor of the first process of each step through a socket. When this process ends,
// the kernel closes its end of the socket. The guard then kills the processes that it knows, and the kernel the rest of
// their pid namespaces.
//
// The invariants: a process is sent to the guard before it gets its step, and what is in the socket stays there when
// the sender ends, so no command can run that the guard does not know. A descriptor never names another process, as a
// number could. The guard holds only processes that run. If the guard is killed, steps still have their parent-death
// signal. TestKillEndsSteps in cmd/bake shows a setuid step that ends with its build.
//
// The cost: one process for each sandbox, which waits in one system call.
type guard struct {
	cmd    *exec.Cmd
	socket int // this process's end; -1 after close
}

// startGuard starts a guard from exe.
func startGuard(exe *os.File) (*guard, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("connect the guard of steps: %w", err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "guard")
	defer theirs.Close()
	g := &guard{socket: ends[0], cmd: &exec.Cmd{
		Path: selfPath(exe), Args: []string{guardName}, Env: []string{"GOMAXPROCS=1"}, Dir: "/", Stdin: theirs,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}, // a signal of the terminal must not end it
	}}
	if err := g.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the guard of steps: %w", err), unix.Close(ends[0]))
	}
	return g, nil
}

// add sends a process to the guard. pidfd is -1 on a kernel without such descriptors (before Linux 5.2).
func (g *guard) add(pidfd int) error {
	if pidfd < 0 {
		return nil
	}
	err := unix.Sendmsg(g.socket, []byte{0}, unix.UnixRights(pidfd), nil, unix.MSG_NOSIGNAL)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil // the guard was killed
	}
	return os.NewSyscallError("sendmsg", err)
}

// close ends the guard, and every process that it knows.
func (g *guard) close() {
	_ = unix.Close(g.socket)
	_ = g.cmd.Wait()
}

// runGuard is the main function of the guard.
func runGuard() int {
	var steps []int
	rights := make([]byte, unix.CmsgSpace(4))
	for {
		n, size, _, _, err := unix.Recvmsg(0, make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n == 0 || err != nil {
			break
		}
		steps = append(running(steps), received(rights[:size])...)
	}
	for _, fd := range steps {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may have ended
	}
	return 0
}

// received returns the descriptors in a control message.
func received(rights []byte) []int {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil
	}
	return fds
}

// running returns the processes that have not ended, and closes the descriptors of the others.
func running(steps []int) []int {
	var left []int
	for _, fd := range steps {
		state := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(state, 0); err == nil && n == 1 {
			unix.Close(fd)
			continue
		}
		left = append(left, fd)
	}
	return left
}
