package main

import (
	"context"
	"errors"
)

// The names of the tools in the table.
const (
	nameBuildx   = "buildx bake"
	nameOnDaemon = "bake --engine"
)

// onDaemon is this repository's builder with its second engine, on a buildkitd like the peer's.
type onDaemon struct {
	bake
	peer buildx
}

func (t *onDaemon) name() string { return nameOnDaemon }

func (t *onDaemon) fresh(ctx context.Context) error {
	return errors.Join(t.bake.fresh(ctx), t.peer.fresh(ctx))
}

func (t *onDaemon) build(ctx context.Context, dir, output string) error {
	return t.run(ctx, dir, output, "--engine", t.peer.address())
}

func (t *onDaemon) close() error { return t.peer.close() }
