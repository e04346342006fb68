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
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/bakebuild/bake/executor/executortest"
)

// tool is one builder under test.
type tool interface {
	name() string
	// fresh forgets everything that was built.
	fresh(ctx context.Context) error
	// build builds all targets of the repository at dir with an output: "cacheonly" or "oci".
	build(ctx context.Context, dir, output string) error
	close() error
}

// bench is the set-up that all rounds share.
type bench struct {
	work   string
	repo   executortest.Monorepo
	tools  []tool
	server *http.Server
	table  table
}

func newBench(ctx context.Context, o options) (*bench, error) {
	work, err := os.MkdirTemp(o.dir, "bake-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{work: work, table: table{times: map[cell][]time.Duration{}}}
	if err := b.setUp(ctx, o); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *bench) setUp(ctx context.Context, o options) error {
	base, err := b.serveBase(ctx)
	if err != nil {
		return fmt.Errorf("serve the base image: %w", err)
	}
	b.repo = executortest.Monorepo{
		Services: o.services, LibraryFiles: 2000, ServiceFiles: 20, Base: base, Tool: executortest.ToolPath,
	}
	ours, err := newBake(ctx, b.work, b.repo)
	if err != nil {
		return err
	}
	b.tools = append(b.tools, ours)
	if o.peers != "" {
		b.tools = append(b.tools,
			&buildx{bin: o.peers, work: filepath.Join(b.work, "peer"), repo: b.repo},
			&onDaemon{bake: *ours, peer: buildx{bin: o.peers, work: filepath.Join(b.work, "daemon")}})
	}
	return nil
}

// serveBase serves the hermetic base on a loopback registry and returns its reference.
func (b *bench) serveBase(ctx context.Context) (string, error) {
	image, err := executortest.ToolImage(b.work)
	if err != nil {
		return "", err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	b.server = &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go b.server.Serve(listener)
	ref, err := name.NewTag(listener.Addr().String() + "/base:1")
	if err != nil {
		return "", err
	}
	return ref.String(), remote.Write(ref, image, remote.WithContext(ctx))
}

// Close stops every tool and removes the work.
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

// round times one tool: cold, then with nothing changed, one service changed and a shared file changed.
func (b *bench) round(ctx context.Context, t tool, output string, round int) error {
	dir := filepath.Join(b.work, "repo")
	if err := errors.Join(os.RemoveAll(dir), b.repo.Write(dir), t.fresh(ctx)); err != nil {
		return err
	}
	// Files that were written in the last seconds are hashed again by whoever trusts their times.
	time.Sleep(2500 * time.Millisecond)
	changes := []struct {
		work string
		file string // changed before the build
	}{
		{"cold", ""},
		{"nothing changed", ""},
		{"one service changed", b.repo.ServiceFile(round % b.repo.Services)},
		{"shared file changed", b.repo.LibraryFile()},
	}
	for _, c := range changes {
		if c.file != "" {
			if err := appendLine(filepath.Join(dir, c.file)); err != nil {
				return err
			}
		}
		start := time.Now()
		if err := t.build(ctx, dir, output); err != nil {
			return fmt.Errorf("%s: %w", c.work, err)
		}
		b.table.add(cell{output, c.work, t.name()}, time.Since(start))
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

// runQuietly runs a command and shows what it printed only if it fails.
func runQuietly(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, tail(out, 4000))
	}
	return nil
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
