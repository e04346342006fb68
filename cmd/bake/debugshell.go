package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/buildkitd"
)

// terminal is where --debug-shell talks to the user.
type terminal struct {
	in  *os.File
	out *os.File
}

// debugTerminal is the user's terminal for --debug-shell, nil when it is not asked for.
func (a *app) debugTerminal(builders []buildkitd.Builder, o runOptions) (*terminal, error) {
	if !o.debugShell {
		return nil, nil
	}
	if len(builders) > 0 {
		return nil, usagef("--debug-shell opens a shell where this process runs the steps, not on a BuildKit daemon: add --engine embedded")
	}
	in, inOK := a.stdin.(*os.File)
	out, outOK := a.stderr.(*os.File)
	for _, f := range []struct {
		what string
		file *os.File
		ok   bool
	}{{"standard input", in, inOK}, {"standard error", out, outOK}} {
		if f.ok {
			_, err := console.ConsoleFromFile(f.file)
			f.ok = err == nil
		}
		if !f.ok {
			return nil, usagef("--debug-shell needs a terminal, and %s is none: leave it away here", f.what)
		}
	}
	return &terminal{in, out}, nil
}

// debug is what the engine calls when a command has failed. The build goes on, and ends as it would have, when the shell ends.
func (a *app) debug(t *terminal, display *progress) func(*executor.StepError, func(*os.File, string) error) {
	return func(failed *executor.StepError, shell func(*os.File, string) error) {
		display.Suspend(func() {
			fmt.Fprintf(a.stderr, "\n%s\n", failed.Error())
			if shell == nil {
				a.note("there is no shell in its root: for a while copy one into the stage, such as COPY --from=busybox /bin/busybox /bin/sh")
				return
			}
			a.note("this is a shell in its root, with its mounts and secrets; exit goes on")
			if err := t.run(func(slave *os.File) error { return shell(slave, a.env("TERM")) }); err != nil {
				a.note("the shell could not be opened: %v", err)
			}
		})
	}
}

// run makes a pseudo-terminal behind the user's and calls f with its other side, until f returns.
func (t *terminal) run(f func(slave *os.File) error) (err error) {
	user, err := console.ConsoleFromFile(t.in)
	if err != nil {
		return err
	}
	master, path, err := console.NewPty()
	if err != nil {
		return err
	}
	defer master.Close()
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	_ = master.ResizeFrom(user) // a terminal of no size works too
	back, err := t.toFront()
	if err != nil {
		return errors.Join(err, slave.Close())
	}
	defer back()
	if err := user.SetRaw(); err != nil {
		return errors.Join(err, slave.Close())
	}
	defer func() { err = errors.Join(err, user.Reset()) }()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	stopR, stopW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, slave.Close())
	}
	defer stopR.Close()
	typed, shown := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(typed)
		copyUntil(t.in, master, stopR)
	}()
	go func() {
		defer close(shown)
		_, _ = io.Copy(t.out, master) // it ends with an error, when nobody holds the other side
	}()
	done := make(chan error, 1)
	go func() { done <- errors.Join(f(slave), slave.Close()) }()
	for {
		select {
		case <-resized:
			_ = master.ResizeFrom(user)
		case err := <-done:
			_ = stopW.Close()
			<-typed
			<-shown
			return err
		}
	}
}

// toFront makes the group of this process the one that the terminal listens to, which it is not in an ordinary user's
// namespace. The result undoes it.
func (t *terminal) toFront() (func(), error) {
	fd := int(t.in.Fd())
	before, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil || before == unix.Getpgrp() {
		return func() {}, nil // it is no terminal of this session, or listens already
	}
	signal.Ignore(unix.SIGTTOU)
	back := func() {
		_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, before)
		signal.Reset(unix.SIGTTOU)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpgrp()); err != nil {
		signal.Reset(unix.SIGTTOU)
		return nil, fmt.Errorf("take the terminal: %w", err)
	}
	return back, nil
}

// copyUntil copies what is typed until stop is closed. It reads nothing that comes after.
func copyUntil(from *os.File, to io.Writer, stop *os.File) {
	buf := make([]byte, 4096)
	for {
		fds := []unix.PollFd{{Fd: int32(from.Fd()), Events: unix.POLLIN}, {Fd: int32(stop.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		n, err := unix.Read(int(from.Fd()), buf)
		if n <= 0 || err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
