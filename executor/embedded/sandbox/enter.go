package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names with which this program starts itself in a user namespace, as argument 0.
const (
	userInitName = "bake-userns" // before the namespace has its ids
	userRootName = "bake-root"   // as root of the namespace; the original arguments follow
)

// parentFD is the descriptor of the read end of a pipe whose write end only the parent has.
const parentFD = 3

// Enter runs this program again with the same arguments in a user namespace, in which an unprivileged user is root. For
// a root that can create sandboxes it does nothing. Root of a container usually cannot: it lacks capabilities. It gets
// them in a user namespace of its own, if the container allows one. done reports that the other process has ended, with
// the given exit code, so that the caller must exit too.
//
// It takes two starts. Enter starts the program as bake-userns in new user and mount namespaces. That process waits
// until its parent has written the id maps, since only a process outside can map more than one id. Then it executes the
// program as bake-root: a process gets the namespace's capabilities when user id 0 executes a file, and without the
// maps it has no user id 0. With no_new_privs an exec gives none, so they are ambient from the start. The child has its
// own process group, so the parent forwards the terminal's signals.
//
// The invariant: no process of the build outlives this one, however it ends. The kernel clears the parent-death signal
// when an exec gains capabilities, and with it that of bake-userns. So bake-root sets it again, see endWithParent. The
// calling thread is locked, because the signal is sent when the thread that started the process ends.
// TestKillEndsSteps in cmd/bake shows that a killed build ends.
func Enter(_ context.Context) (code int, done bool, err error) {
	if os.Geteuid() == 0 && ownCaps()&rootCaps == rootCaps {
		return 0, false, nil
	}
	code, done, err = enterNamespaces(unix.CLONE_NEWUSER | unix.CLONE_NEWNS)
	if _, ok := errors.AsType[*UnavailableError](err); ok && os.Geteuid() == 0 {
		return 0, false, nil // root builds images without RUN here too; a RUN reports what it lacks
	}
	return code, done, err
}

// EnterMounts runs this program again, as Enter does, in a mount namespace of its own. It is for a root that can create
// sandboxes, and that must mount something which other programs do not see and which ends with the process.
func EnterMounts(_ context.Context) (code int, done bool, err error) {
	return enterNamespaces(unix.CLONE_NEWNS)
}

// OwnMounts reports whether this process has a mount namespace of its own, from Enter or EnterMounts.
func OwnMounts() bool {
	line, err := os.ReadFile("/proc/self/cmdline")
	name, _, _ := bytes.Cut(line, []byte{0})
	return err == nil && string(name) == userRootName
}

// MountMemory mounts a tmpfs of at most size bytes on a directory, for this process and its children. OwnMounts must
// report true: otherwise the mount would outlive the process.
func MountMemory(dir string, size int64) error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NODEV, fmt.Sprintf("mode=0700,size=%d", size))
}

// enterNamespaces starts the program in new namespaces and waits for it.
func enterNamespaces(flags uintptr) (code int, done bool, err error) {
	goR, goW, err := os.Pipe()
	if err != nil {
		return 0, false, err
	}
	defer goW.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{userInitName}, os.Args...), Env: os.Environ(),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: []*os.File{goR},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: flags, Pdeathsig: unix.SIGKILL, Setpgid: true,
		},
	}
	inUser := flags&unix.CLONE_NEWUSER != 0
	if inUser {
		cmd.SysProcAttr.AmbientCaps = allCaps()
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGWINCH)
	defer signal.Stop(signals)
	err = errors.Join(cmd.Start(), goR.Close())
	if err != nil {
		what := "create a user namespace"
		if flags&unix.CLONE_NEWUSER == 0 {
			what = "create a mount namespace"
		}
		return 0, false, unavailable(what, err)
	}
	go func() {
		for sig := range signals {
			_ = cmd.Process.Signal(sig) // it may have ended
		}
	}()
	if inUser {
		err = mapIDs(cmd.Process.Pid)
	}
	if err != nil {
		return 0, false, errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	if _, err := goW.Write([]byte{1}); err != nil {
		return 0, false, errors.Join(err, ignoreExit(cmd.Wait()))
	}
	return exitCode(cmd)
}

func exitCode(cmd *exec.Cmd) (int, bool, error) {
	if err := ignoreExit(cmd.Wait()); err != nil {
		return 0, false, err
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal()), true, nil
	}
	return cmd.ProcessState.ExitCode(), true, nil
}

func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// runUserInit is the main function of bake-userns, see Enter. It returns only after an error.
func runUserInit() int {
	if n, err := unix.Read(parentFD, make([]byte, 1)); n != 1 || err != nil {
		return 125
	}
	args := append([]string{userRootName}, os.Args[1:]...)
	err := syscall.Exec("/proc/self/exe", args, os.Environ())
	fmt.Fprintln(os.Stderr, "bake: execute the program in the user namespace:", err)
	return 125
}

// endWithParent makes this process end when its parent ends, and reports whether the parent still runs. A parent that
// ended before the signal was set sends none, but has closed its end of the pipe. It must run on the main thread, since
// the setting belongs to a thread, and the main thread exists as long as the process.
func endWithParent() bool {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return false
	}
	defer unix.Close(parentFD)
	state := []unix.PollFd{{Fd: parentFD}}
	for {
		if _, err := unix.Poll(state, 0); err != unix.EINTR {
			return err == nil && state[0].Revents == 0
		}
	}
}
