package sandbox

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is an init process: this program, started again in namespaces of its own, which becomes the command of a
// step.
type process struct {
	cmd            *exec.Cmd
	pidfd          int      // -1 on a kernel without such descriptors; guardProcess closes it
	config         *os.File // write end of a pipe; an init process without a step ends when it is closed
	report         *os.File // read end of a pipe
	stdout, stderr *os.File // read ends of pipes
	copies         sync.WaitGroup
	copyErrs       [2]error
}

// startProcess starts an init process from exe. The process dies with the calling thread. It starts in the control
// group with the descriptor group; -1 is the group of the calling thread. If terminal is not nil, it is the process's
// standard input, output and error, and its controlling terminal.
func startProcess(exe *os.File, n Network, group int, terminal *os.File) (_ *process, err error) {
	var ours, theirs []*os.File
	defer func() {
		for _, f := range theirs {
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			for _, f := range ours {
				_ = f.Close() // nothing was written to it
			}
		}
	}()
	for range 4 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, unavailable("start a process in new namespaces", err)
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	ours[0], theirs[0] = theirs[0], ours[0] // the first pipe leads to the process
	pidfd := -1
	cmd := &exec.Cmd{
		Path: selfPath(exe), Args: []string{initName}, Env: []string{"GOMAXPROCS=2", "GOGC=off"}, Dir: "/",
		Stdout: theirs[2], Stderr: theirs[3], ExtraFiles: theirs[:2],
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: namespaces(n), Pdeathsig: unix.SIGKILL, Setsid: true, PidFD: &pidfd,
			UseCgroupFD: group >= 0, CgroupFD: group,
		},
	}
	if terminal != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
		cmd.SysProcAttr.Setctty = true // of descriptor 0
	}
	if err := cmd.Start(); err != nil {
		return nil, unavailable("start a process in new namespaces", err)
	}
	return &process{cmd: cmd, pidfd: pidfd, config: ours[0], report: ours[1], stdout: ours[2], stderr: ours[3]}, nil
}

// selfPath returns the path of this program's open file for a child. It is not in /proc/self/fd: in the child a pipe
// may have that number.
func selfPath(exe *os.File) string {
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(exe.Fd()))
}

func namespaces(n Network) uintptr {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if n != Host {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

// output starts to copy the command's output to two writers; nil discards it. wait waits for the copies.
func (p *process) output(stdout, stderr io.Writer) {
	for i, o := range []struct {
		from *os.File
		to   io.Writer
	}{{p.stdout, stdout}, {p.stderr, stderr}} {
		if o.to == nil {
			o.to = io.Discard
		}
		p.copies.Go(func() {
			_, p.copyErrs[i] = io.Copy(o.to, o.from)
			_ = o.from.Close() // a process that still writes gets SIGPIPE
		})
	}
}

// wait waits for the end of the process and of its output. It returns an error only if waiting or copying failed, not
// if the process did.
func (p *process) wait() error {
	err := ignoreExit(p.cmd.Wait())
	p.copies.Wait()
	return errors.Join(err, p.copyErrs[0], p.copyErrs[1])
}

// discard ends an init process that has no step.
func (p *process) discard() {
	for _, f := range []*os.File{p.config, p.report, p.stdout, p.stderr} {
		_ = f.Close() // nothing was written to it
	}
	_, _ = p.cmd.Process.Kill(), p.cmd.Wait()
}
