package embedded

import (
	"context"
	"io"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// Run executes the graph and writes its outputs and remote caches. If a layer of a remote cache cannot be fetched,
// the graph runs again without it; steps that are done are found in the local cache.
func (e *Engine) Run(ctx context.Context, g *planner.Graph, opts executor.Options) (*executor.Report, error) {
	if err := e.checkFormat(); err != nil {
		return &executor.Report{}, err
	}
	c := e.newImports(ctx, g, opts)
	defer c.close()
	out := &watchedWriter{to: opts.Stdout}
	if opts.Stdout != nil {
		opts.Stdout = out
	}
	var before *build
	for {
		b, err := e.newBuild(g, opts)
		if err != nil {
			return &executor.Report{}, err
		}
		b.imports, b.events = c, c.events
		b.follow(before)
		report, err := b.execute(ctx)
		if err == nil || ctx.Err() != nil || out.used || !c.lostMore() {
			return report, err
		}
		before = b
	}
}

// follow continues where an earlier run of the same graph stopped.
func (b *build) follow(before *build) {
	if before == nil {
		return
	}
	b.nonce, b.storedKeys, b.durations, b.started = before.nonce, before.storedKeys, before.durations, before.started
	for i, n := range before.nodes {
		b.nodes[i].before, b.nodes[i].reportedCached = n.before, n.reportedCached ||
			n.result.Status == executor.StatusCached
		if n.result.Status == executor.StatusRan && n.result.Err == nil {
			result := n.result
			b.nodes[i].before = &result
		}
	}
}

// watchedWriter records whether anything was written. After that the graph must not run again.
type watchedWriter struct {
	to   io.Writer
	used bool
}

// Write implements io.Writer.
func (w *watchedWriter) Write(p []byte) (int, error) {
	w.used = true
	return w.to.Write(p)
}
