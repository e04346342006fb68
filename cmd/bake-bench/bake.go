package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// bake is this repository's builder, or another build of it.
type bake struct {
	title  string
	binary string
	cache  string
}

// newBake compiles the builder, unless a program is given.
func newBake(ctx context.Context, work, program string) (*bake, error) {
	if program != "" {
		binary, err := filepath.Abs(program)
		return &bake{nameBake, binary, filepath.Join(work, "cache")}, err
	}
	t := &bake{nameBake, filepath.Join(work, "bake"), filepath.Join(work, "cache")}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", t.binary,
		"github.com/bakebuild/bake/cmd/bake")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err := measure(cmd)
	return t, err
}

// newBefore returns another build of the builder, with its own cache.
func newBefore(work, program string) (*bake, error) {
	binary, err := filepath.Abs(program)
	return &bake{nameBefore, binary, filepath.Join(work, "cache-before")}, err
}

func (t *bake) name() string { return t.title }

func (t *bake) fresh(context.Context) error { return os.RemoveAll(t.cache) }

func (t *bake) build(ctx context.Context, j job) (sample, error) {
	return measure(t.command(ctx, j.dir, slices.Concat([]string{"build", "--progress=quiet"}, j.flags(t.title))...))
}

func (t *bake) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.binary, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+t.cache)
	return cmd
}

func (t *bake) close() error { return nil }
