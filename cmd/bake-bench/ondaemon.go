package main

import (
	"context"
	"errors"
	"slices"
)

// The names of the tools in the table.
const (
	nameBake     = "bake"
	nameBefore   = "bake-before"
	nameBuildx   = "buildx bake"
	nameOnDaemon = "bake --engine"
)

// onDaemon is this repository's builder with --engine, on a buildkitd like the peer's.
type onDaemon struct {
	bake
	daemon daemon
}

// newOnDaemon returns the builder ours with its own cache and daemon in a directory.
func newOnDaemon(ours bake, peers, work string) *onDaemon {
	ours.cache = work + "-cache"
	return &onDaemon{ours, newBuildx(peers, work).daemon}
}

func (t *onDaemon) name() string { return nameOnDaemon }

func (t *onDaemon) fresh(ctx context.Context) error {
	return errors.Join(t.bake.fresh(ctx), t.daemon.fresh(ctx))
}

func (t *onDaemon) build(ctx context.Context, j job) (sample, error) {
	args := slices.Concat([]string{"build", "--progress=quiet", "--engine", t.daemon.address()}, j.flags("engine"))
	return t.daemon.during(func() (sample, error) { return measure(t.command(ctx, j.dir, args...)) })
}

func (t *onDaemon) close() error { return t.daemon.close() }
