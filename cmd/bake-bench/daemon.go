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

// daemon is a buildkitd of this run.
type daemon struct {
	program string
	work    string // folder of its own
	process *exec.Cmd
}

func (d *daemon) path(name string) string { return filepath.Join(d.work, name) }

func (d *daemon) address() string { return "unix://" + d.path("bk.sock") }

// fresh starts it on an empty root.
func (d *daemon) fresh(ctx context.Context) error {
	if err := d.close(); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(d.work), os.MkdirAll(d.work, 0o755)); err != nil {
		return err
	}
	d.process = exec.Command(d.program, "--root", d.path("root"), "--addr", d.address(), "--oci-worker=true", "--containerd-worker=false")
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

// during adds what the daemon takes to what a client of it takes.
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

// patience is how long it may take to stop.
const patience = 10 * time.Second

// close stops it and waits for it.
func (d *daemon) close() error {
	if d.process == nil {
		return nil
	}
	err := d.process.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(patience, func() { _ = d.process.Process.Kill() })
	d.process.Wait() // its exit code after a signal says nothing
	late.Stop()
	d.process = nil
	return err
}
