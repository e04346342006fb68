// Package terminal runs an interactive program on a pseudo-terminal that is connected to the user's terminal. It
// imports nothing of this module.
package terminal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// Terminal is the terminal of the user.
type Terminal struct {
	In  *os.File
	Out *os.File
}

// Is reports whether a stream is a terminal, and returns its file. A stream may have a method Unwrap that returns the
// stream below it.
func Is(stream any) (*os.File, bool) {
	if u, ok := stream.(interface{ Unwrap() io.Writer }); ok {
		return Is(u.Unwrap())
	}
	f, ok := stream.(*os.File)
	if !ok {
		return nil, false
	}
	_, err := console.ConsoleFromFile(f)
	return f, err == nil
}

// Run creates a pseudo-terminal, connects it to the user's terminal in raw mode, and calls f with its slave, which Run
// closes. When f returns, Run restores the user's terminal. It does not read input that is typed afterwards.
func (t *Terminal) Run(f func(slave *os.File) error) (err error) {
	user, err := console.ConsoleFromFile(t.In)
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
	_ = master.ResizeFrom(user) // a terminal without a size works too
	back, err := t.foreground()
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
		copyUntil(t.In, master, stopR)
	}()
	go func() {
		defer close(shown)
		_, _ = io.Copy(t.Out, master) // it ends with an error once the slave is closed
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

// foreground makes the process group of this process the terminal's foreground group, and returns a function that
// restores the previous one. A process in a user namespace of its own is not in the foreground: its parent, which the
// shell started, is.
func (t *Terminal) foreground() (func(), error) {
	fd := int(t.In.Fd())
	before, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil || before == unix.Getpgrp() {
		return func() {}, nil // not the terminal of this session, or already in the foreground
	}
	signal.Ignore(unix.SIGTTOU)
	back := func() {
		_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, before)
		signal.Reset(unix.SIGTTOU)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpgrp()); err != nil {
		signal.Reset(unix.SIGTTOU)
		return nil, fmt.Errorf("move to the foreground of the terminal: %w", err)
	}
	return back, nil
}

// copyUntil copies input until stop is closed, and reads nothing after that: it belongs to the shell that started bake.
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
