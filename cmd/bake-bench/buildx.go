package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
)

// buildx is the peer: buildx bake with its own buildkitd.
type buildx struct {
	program string
	daemon  daemon
}

func (t *buildx) name() string { return nameBuildx }

func (t *buildx) fresh(ctx context.Context) error {
	if err := t.daemon.fresh(ctx); err != nil {
		return err
	}
	_, err := measure(t.command(ctx, "create", "--name", "peer", "--driver", "remote", t.daemon.address()))
	return err
}

func (t *buildx) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.program, args...)
	cmd.Env = append(os.Environ(), "BUILDX_CONFIG="+t.daemon.path("buildx"), "DOCKER_CONFIG="+t.daemon.path("docker"))
	return cmd
}

func (t *buildx) build(ctx context.Context, j job) (sample, error) {
	cmd := t.command(ctx, slices.Concat([]string{"bake", "--builder", "peer", "--progress=quiet", "--allow", "fs=*",
		"--provenance=false", "--set", "*.platform=linux/" + runtime.GOARCH}, j.flags("buildx"))...)
	cmd.Dir = j.dir
	return t.daemon.during(func() (sample, error) { return measure(cmd) })
}

func (t *buildx) close() error { return t.daemon.close() }

func newBuildx(peers, work string) *buildx {
	return &buildx{filepath.Join(peers, "buildx"), daemon{program: filepath.Join(peers, "buildkitd"), work: work}}
}
