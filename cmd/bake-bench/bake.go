package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/bakebuild/bake/executor/executortest"
)

// bake is this repository's builder, compiled for the run.
type bake struct {
	binary string
	cache  string
	repo   executortest.Monorepo
}

func newBake(ctx context.Context, work string, repo executortest.Monorepo) (*bake, error) {
	t := &bake{binary: filepath.Join(work, "bake"), cache: filepath.Join(work, "cache"), repo: repo}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", t.binary, "github.com/bakebuild/bake/cmd/bake")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return t, runQuietly(cmd)
}

func (t *bake) name() string { return "bake" }

func (t *bake) fresh(context.Context) error { return os.RemoveAll(t.cache) }

func (t *bake) build(ctx context.Context, dir, output string) error { return t.run(ctx, dir, output) }

func (t *bake) run(ctx context.Context, dir, output string, flags ...string) error {
	args := slices.Concat([]string{"build", "--progress=quiet"}, flags, outputArgs(t.repo, output))
	cmd := exec.CommandContext(ctx, t.binary, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+t.cache)
	return runQuietly(cmd)
}

func (t *bake) close() error { return nil }

// outputArgs are the --set flags, the same for both tools, that give every target its output.
func outputArgs(repo executortest.Monorepo, output string) []string {
	if output == "cacheonly" {
		return []string{"--set", "*.output=type=cacheonly"}
	}
	var args []string
	for i := range repo.Services {
		name := repo.Name(i)
		args = append(args, "--set", fmt.Sprintf("%s.output=type=oci,dest=%s.tar", name, name))
	}
	return args
}
