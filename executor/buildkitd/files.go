package buildkitd

import (
	"context"
	"fmt"
	"io"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// files writes the files of an edge of an image's graph as one tar. When the builder is lost before the first byte,
// another one builds the edge again.
func (r *run) files(
	ctx context.Context, image *planner.Image, e planner.Edge, enc executor.LayerEncoding, w io.Writer,
) error {
	b := r.results[image].builder
	for {
		count := &counter{to: w}
		watched, stop := b.watched(ctx)
		err := b.receiveFiles(watched, r, image, e, enc, count)
		stop()
		if err == nil || ctx.Err() != nil || count.n > 0 || !b.lost(ctx) {
			return err
		}
		b.leave(err)
		if b, err = r.choose(image); err != nil {
			return err
		}
	}
}

// counter counts the bytes written: a tar that was partly sent cannot be sent again.
type counter struct {
	to io.Writer
	n  int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}

// receiveFiles copies the files of an edge from a builder to w, in a build of its own. One session receives one file at
// a time.
func (b *builder) receiveFiles(
	ctx context.Context, r *run, image *planner.Image, e planner.Edge, enc executor.LayerEncoding, w io.Writer,
) error {
	b.receiver.turn.Lock()
	defer b.receiver.turn.Unlock()
	pr, pw := io.Pipe()
	b.receiver.to = pw
	defer func() { b.receiver.to = nil }()
	opt := b.options(r)
	opt.Exports = []client.ExportEntry{{Type: client.ExporterTar, Output: b.receiver.open}}
	go func() {
		_, err := b.build(ctx, r.status, opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			return c.Solve(ctx, b.request(r, image, e))
		})
		pw.CloseWithError(err)
	}()
	var err error
	if enc.KeepTimes {
		_, err = io.Copy(w, pr)
	} else {
		err = executor.ClampTimes(pr, w, enc.EpochOr(r.epoch(image)))
	}
	// The pipe still holds the daemon's bytes after the end of the archive, and its error.
	if _, rest := io.Copy(io.Discard, pr); err == nil {
		err = rest
	}
	_ = pr.Close()
	if err != nil {
		return &Error{b.Address, fmt.Errorf("send the files of target %s: %w", image.Target, err)}
	}
	return nil
}
