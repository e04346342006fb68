package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// bench is the setup that all series share.
type bench struct {
	rounds   int
	growth   bool
	work     string
	tools    []tool
	server   *http.Server
	registry string // HOST:PORT
	table    table
}

func newBench(ctx context.Context, o options) (*bench, error) {
	work, err := os.MkdirTemp(o.dir, "bake-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{work: work, rounds: o.rounds, growth: o.growth, table: newTable(o.peers != "")}
	if err := b.setUp(ctx, o); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *bench) setUp(ctx context.Context, o options) error {
	if err := b.serve(); err != nil {
		return fmt.Errorf("serve a registry: %w", err)
	}
	if err := b.pushBases(ctx); err != nil {
		return fmt.Errorf("create the base images: %w", err)
	}
	ours, err := newBake(ctx, b.work, o.bake)
	if err != nil {
		return err
	}
	b.tools = append(b.tools, ours)
	if o.before != "" {
		before, err := newBefore(b.work, o.before)
		if err != nil {
			return err
		}
		b.tools = append(b.tools, before)
	}
	if o.peers == "" {
		return nil
	}
	b.tools = append(b.tools, newBuildx(o.peers, filepath.Join(b.work, "peer")))
	if o.second {
		b.tools = append(b.tools, newOnDaemon(*ours, o.peers, filepath.Join(b.work, "daemon")))
	}
	return nil
}

// serve starts a registry on the loopback interface. It stores its blobs on disk, so that this process stays small.
func (b *bench) serve() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b.registry = listener.Addr().String()
	blobs := filepath.Join(b.work, "registry")
	if err := os.Mkdir(blobs, 0o755); err != nil {
		return err
	}
	b.server = &http.Server{Handler: registry.New(
		registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)),
	)}
	go b.server.Serve(listener)
	return nil
}

// Close stops every tool and removes the working directory.
func (b *bench) Close() error {
	var errs []error
	for _, t := range b.tools {
		errs = append(errs, t.close())
	}
	if b.server != nil {
		errs = append(errs, b.server.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(b.work))...)
}

// run runs one series. The project is written once, and each tool runs the steps in every round.
func (b *bench) run(ctx context.Context, s series) error {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), s.name)
	dir := filepath.Join(b.work, "project")
	if err := errors.Join(os.RemoveAll(dir), s.project.write(dir)); err != nil {
		return err
	}
	// A builder that trusts modification times hashes recently written files again, so wait until the files are old
	// enough.
	time.Sleep(2500 * time.Millisecond)
	for round := range b.rounds {
		tools := slices.Clone(b.tools)
		if round%2 == 1 { // so that no tool is always the one that runs first
			slices.Reverse(tools)
		}
		for _, t := range tools {
			if _, own := t.(*bake); s.alone && !own {
				continue
			}
			if err := b.round(ctx, s, t, dir, round); err != nil {
				return fmt.Errorf("%s, round %d: %w", t.name(), round+1, err)
			}
		}
	}
	return nil
}

// round runs the steps of a series once with one tool.
func (b *bench) round(ctx context.Context, s series, t tool, dir string, round int) error {
	steps := s.steps
	if round == 0 || s.fresh {
		if err := t.fresh(ctx); err != nil {
			return err
		}
		steps = slices.Concat(s.prepare, steps)
	}
	for _, step := range steps {
		if step.change != nil {
			if err := appendLine(filepath.Join(dir, step.change(round))); err != nil {
				return err
			}
		}
		took, err := t.build(ctx, job{dir, s.project.targets, step.output, b.registry})
		if err != nil {
			return fmt.Errorf("%s: %w", step.output, err)
		}
		if step.row != "" {
			b.table.add(step.row, t.name(), took)
		}
	}
	if ours, ok := t.(*bake); ok && s.floor != "" {
		took, err := floor(ctx, ours, dir)
		if err != nil {
			return err
		}
		b.table.add(s.floor, t.name(), took)
	}
	return nil
}

func appendLine(file string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, "changed", time.Now())
	return errors.Join(err, f.Close())
}
