package cache

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errNoTrace means that this process may not trace others.
var errNoTrace = errors.New("processes cannot be traced here (ptrace)")

// tracer follows all threads of a process that has called reportChanges, and kills the process before one of the
// calls.
type tracer struct {
	dir  string // only calls that change files below it count
	left int    // the number of calls until the process is killed

	call   string // its name
	killed bool
}

// callInfo is struct ptrace_syscall_info for a stop by a seccomp filter.
type callInfo struct {
	op     uint8
	_      [3]uint8
	arch   uint32
	ip, sp uint64
	nr     uint64
	args   [6]uint64
	_      [16]uint8
}

// changing holds the system calls that change files, by number. Calls with a descriptor count only for files below
// dir.
var changing = map[uint64]string{
	unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_UNLINKAT: "unlinkat",
	unix.SYS_MKDIRAT:  "mkdirat",
	unix.SYS_FCHMODAT: "fchmodat", unix.SYS_UTIMENSAT: "utimensat", unix.SYS_LINKAT: "linkat",
	unix.SYS_OPENAT: "openat", unix.SYS_WRITE: "write", unix.SYS_FSYNC: "fsync", unix.SYS_SYNCFS: "syncfs",
}

// reportChanges makes every thread of this process stop for its tracer before the calls in changing.
func reportChanges() error {
	const load, jumpIf, give = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
		unix.BPF_RET | unix.BPF_K
	const allow, trace = 0x7fff0000, 0x7ff00000
	filter := []unix.SockFilter{{Code: load, K: 0}} // the number of the call
	left := uint8(len(changing))
	for nr := range changing {
		left--
		filter = append(filter, unix.SockFilter{Code: jumpIf, K: uint32(nr), Jt: left + 1})
	}
	filter = append(filter, unix.SockFilter{Code: give, K: allow}, unix.SockFilter{Code: give, K: trace})
	runtime.LockOSThread() // only a thread with no_new_privs may set a filter without CAP_SYS_ADMIN
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}

// run starts the command and waits for its end.
func (t *tracer) run(cmd *exec.Cmd) error {
	runtime.LockOSThread() // ptrace works by thread
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			return errNoTrace
		}
		return err
	}
	pid := cmd.Process.Pid
	status, err := t.follow(pid)
	_ = cmd.Wait() // follow has reaped the process: this only closes the pipes
	if err == nil && !t.killed && status.ExitStatus() != 0 {
		err = fmt.Errorf("the work ended with %d", status.ExitStatus())
	}
	return err
}

// follow resumes the process after each stop until it ends.
func (t *tracer) follow(pid int) (syscall.WaitStatus, error) {
	const options = unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	var status syscall.WaitStatus
	for first := true; ; {
		tid, err := syscall.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return status, fmt.Errorf("wait: %w", err)
		}
		if status.Exited() || status.Signaled() {
			if tid == pid {
				return status, nil
			}
			continue
		}
		if first {
			first = false
			if err := syscall.PtraceSetOptions(pid, options); err != nil {
				return status, fmt.Errorf("trace: %w", err)
			}
		}
		signal := 0
		switch stop := status.StopSignal(); {
		case stop == syscall.SIGTRAP && status.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
			if t.counts(pid, tid) {
				t.killed = true
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					return status, err
				}
			}
		case stop != syscall.SIGTRAP && stop != syscall.SIGSTOP:
			signal = int(stop)
		}
		// ESRCH: the thread was killed meanwhile.
		if err := syscall.PtraceCont(tid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return status, fmt.Errorf("continue: %w", err)
		}
	}
}

// counts reports whether a stopped thread is about to make the call before which the process is to be killed.
func (t *tracer) counts(pid, tid int) bool {
	const getSyscallInfo, stopped = 0x420e, 3
	var info callInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(info),
		uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info.op != stopped || t.killed {
		return false
	}
	name, ok := changing[info.nr]
	switch {
	case !ok:
		return false
	case info.nr == unix.SYS_OPENAT && info.args[2]&unix.O_CREAT == 0:
		return false
	case info.nr == unix.SYS_WRITE || info.nr == unix.SYS_FSYNC || info.nr == unix.SYS_SYNCFS:
		file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(info.args[0])))
		if err != nil || !strings.HasPrefix(file, t.dir) {
			return false
		}
	}
	t.call = name
	t.left--
	return t.left == 0
}
