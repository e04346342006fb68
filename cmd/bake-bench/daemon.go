package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// daemon is a buildkitd that is started for this run.
type daemon struct {
	program string
	work    string // its own directory
	process *exec.Cmd
}

func (d *daemon) path(name string) string { return filepath.Join(d.work, name) }

func (d *daemon) address() string { return "unix://" + d.path("bk.sock") }

// fresh starts the daemon with an empty root, after stopping a running one.
func (d *daemon) fresh(ctx context.Context) error {
	if err := d.close(); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(d.work), os.MkdirAll(d.work, 0o755)); err != nil {
		return err
	}
	d.process = exec.Command(d.program, "--root", d.path("root"), "--addr", d.address(), "--oci-worker=true",
		"--containerd-worker=false")
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := d.process.Start(); err != nil {
		d.process = nil
		return err
	}
	for range 300 {
		if _, err := os.Stat(d.path("bk.sock")); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("buildkitd did not open %s within 30 s", d.address())
}

// during runs a client of the daemon and adds the daemon's CPU time and peak memory to the client's.
func (d *daemon) during(client func() (sample, error)) (sample, error) {
	pid := strconv.Itoa(d.process.Process.Pid)
	before, err := cpuOf(pid)
	if err := errors.Join(err, resetPeak(pid)); err != nil {
		return sample{}, err
	}
	s, err := client()
	if err != nil {
		return s, err
	}
	after, errCPU := cpuOf(pid)
	peak, errPeak := peakOf(pid)
	return s.add(sample{cpu: after - before, peak: peak}), errors.Join(errCPU, errPeak)
}

// stopTimeout is how long the daemon may take to stop before it is killed.
const stopTimeout = 10 * time.Second

// close stops the daemon and waits for it.
func (d *daemon) close() error {
	if d.process == nil {
		return nil
	}
	err := d.process.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(stopTimeout, func() { _ = d.process.Process.Kill() })
	d.process.Wait() // the exit code after a signal is meaningless
	timer.Stop()
	d.process = nil
	return err
}
