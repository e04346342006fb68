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

// process is an init stage: this program, started once more in namespaces of its own, which becomes a step.
type process struct {
	cmd            *exec.Cmd
	config         *os.File // to the stage; one that was told nothing ends when it is closed
	report         *os.File // from it, as are the command's outputs
	stdout, stderr *os.File
	copies         sync.WaitGroup
	copyErrs       [2]error
}

// startProcess starts a stage from exe. It dies with the calling thread. group is a descriptor of the control group in which
// it starts; -1 is that of the thread. A terminal, when not nil, is all its streams.
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
			return nil, err
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	ours[0], theirs[0] = theirs[0], ours[0] // the first one leads to the stage
	cmd := &exec.Cmd{
		// Not by /proc/self: in the child this number may be taken by the pipes.
		Path: "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(exe.Fd())),
		Args: []string{stageName}, Env: []string{"GOMAXPROCS=2", "GOGC=off"}, Dir: "/",
		Stdout: theirs[2], Stderr: theirs[3], ExtraFiles: theirs[:2],
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: namespaces(n), Pdeathsig: unix.SIGKILL, Setsid: true, UseCgroupFD: group >= 0, CgroupFD: group,
		},
	}
	if terminal != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
		cmd.SysProcAttr.Setctty = true // of descriptor 0
	}
	if err := cmd.Start(); err != nil {
		return nil, unavailable("start a process in namespaces of its own", err)
	}
	return &process{cmd: cmd, config: ours[0], report: ours[1], stdout: ours[2], stderr: ours[3]}, nil
}

func namespaces(n Network) uintptr {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if n != Host {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

// output has what the command says written to two writers, nil for none, until it has ended.
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
			_ = o.from.Close() // it was only read; who still writes is told by a signal
		})
	}
}

// wait waits for the end of the process and of its output. The error is about the waiting, not about how the process ended.
func (p *process) wait() error {
	err := ignoreExit(p.cmd.Wait())
	p.copies.Wait()
	return errors.Join(err, p.copyErrs[0], p.copyErrs[1])
}

// discard ends a stage that was told nothing.
func (p *process) discard() {
	for _, f := range []*os.File{p.config, p.report, p.stdout, p.stderr} {
		_ = f.Close() // nothing was written to it
	}
	_, _ = p.cmd.Process.Kill(), p.cmd.Wait()
}
