package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/bakebuild/bake/executor/executortest"
)

// buildx is the peer: `buildx bake` with a buildkitd of its own.
type buildx struct {
	bin    string
	work   string // folder of its own
	repo   executortest.Monorepo
	daemon *exec.Cmd
}

func (t *buildx) name() string { return nameBuildx }

func (t *buildx) path(name string) string { return filepath.Join(t.work, name) }

func (t *buildx) address() string { return "unix://" + t.path("bk.sock") }

// fresh starts a daemon on an empty root.
func (t *buildx) fresh(ctx context.Context) error {
	if err := t.close(); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(t.path("")), os.MkdirAll(t.path(""), 0o755)); err != nil {
		return err
	}
	t.daemon = exec.Command(filepath.Join(t.bin, "buildkitd"), "--root", t.path("root"), "--addr", t.address(),
		"--oci-worker=true", "--containerd-worker=false")
	t.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := t.daemon.Start(); err != nil {
		return err
	}
	if err := t.waitForDaemon(ctx); err != nil {
		return err
	}
	return runQuietly(t.command(ctx, "create", "--name", "peer", "--driver", "remote", t.address()))
}

func (t *buildx) waitForDaemon(ctx context.Context) error {
	for range 300 {
		if _, err := os.Stat(t.path("bk.sock")); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("buildkitd did not open %s within 30 s", t.address())
}

func (t *buildx) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(t.bin, "buildx"), args...)
	cmd.Env = append(os.Environ(), "BUILDX_CONFIG="+t.path("buildx"), "DOCKER_CONFIG="+t.path("docker"))
	return cmd
}

func (t *buildx) build(ctx context.Context, dir, output string) error {
	args := append([]string{"bake", "--builder", "peer", "--progress=quiet", "--allow", "fs=*",
		"--provenance=false", "--set", "*.platform=linux/" + runtime.GOARCH}, outputArgs(t.repo, output)...)
	cmd := t.command(ctx, args...)
	cmd.Dir = dir
	return runQuietly(cmd)
}

// close stops the daemon and waits for it.
func (t *buildx) close() error {
	if t.daemon == nil {
		return nil
	}
	err := t.daemon.Process.Signal(syscall.SIGTERM)
	t.daemon.Wait() // its exit code after a signal says nothing
	t.daemon = nil
	return err
}
