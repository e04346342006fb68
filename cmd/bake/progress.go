package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// progress shows the events of an engine in BuildKit's display.
type progress struct {
	ctx    context.Context // of the display, which outlives no build
	w      io.Writer
	mode   string
	mu     sync.Mutex // held while something is shown, and while the display is away
	status chan *client.SolveStatus
	done   chan error
	inputs map[digest.Digest][]digest.Digest
	open   map[digest.Digest]*client.Vertex
	closed sync.Once
}

// startProgress opens a display of a --progress mode on w. The empty mode is "auto".
func startProgress(ctx context.Context, w io.Writer, mode string, g *planner.Graph) (*progress, error) {
	p := &progress{ctx: context.WithoutCancel(ctx), w: w, mode: mode, inputs: inputsOf(g), open: map[digest.Digest]*client.Vertex{}}
	return p, p.start()
}

// start opens the display.
func (p *progress) start() error {
	display, err := newDisplay(p.w, p.mode)
	if err != nil {
		return err
	}
	p.status, p.done = make(chan *client.SolveStatus, 64), make(chan error, 1)
	go func() {
		_, err := display.UpdateFrom(p.ctx, p.status)
		p.done <- err
	}()
	return nil
}

// Suspend takes the display away while f runs. Whoever has something to show waits.
func (p *progress) Suspend(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.status)
	<-p.done
	f()
	p.status, p.done = make(chan *client.SolveStatus), make(chan error, 1)
	if p.start() != nil { // that could be opened before
		p.silence()
	}
}

// silence shows nothing more.
func (p *progress) silence() {
	go func() {
		for range p.status {
			continue
		}
		p.done <- nil
	}()
}

// newDisplay opens a display. "none" is another word for quiet. A terminal is drawn on only if it can be.
func newDisplay(w io.Writer, mode string) (progressui.Display, error) {
	switch {
	case mode == "none":
		mode = string(progressui.QuietMode)
	case (mode == "" || mode == "auto") && (os.Getenv("TERM") == "dumb" || isTrue(os.Getenv("CI"))):
		mode = string(progressui.PlainMode)
	}
	display, err := progressui.NewDisplay(w, progressui.DisplayMode(mode))
	if err != nil {
		return display, usagef("--progress=%s: %w (auto, plain, tty, quiet, rawjson, none)", mode, err)
	}
	return display, nil
}

// isTrue reads a switch such as CI: anything but empty, 0 and false.
func isTrue(v string) bool { return v != "" && v != "0" && v != "false" }

func inputsOf(g *planner.Graph) map[digest.Digest][]digest.Digest {
	inputs := map[digest.Digest][]digest.Digest{}
	if g == nil {
		return inputs
	}
	for _, s := range g.Steps {
		for _, in := range s.Inputs {
			if in.Step != nil {
				inputs[s.Digest] = append(inputs[s.Digest], in.Step.Digest)
			}
		}
	}
	return inputs
}

// Event shows one event. It is called by one goroutine at a time.
func (p *progress) Event(e executor.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.translate(e); s != nil {
		p.status <- s
	}
}

func (p *progress) translate(e executor.Event) *client.SolveStatus {
	at := e.Time
	switch e.Kind {
	case executor.KindStart:
		v := &client.Vertex{Digest: e.Step, Name: e.Name, Inputs: p.inputs[e.Step], Started: &at}
		p.open[e.Step] = v
		return vertexStatus(v)
	case executor.KindCached:
		return vertexStatus(&client.Vertex{
			Digest: e.Step, Name: e.Name, Inputs: p.inputs[e.Step], Started: &at, Completed: &at, Cached: true,
		})
	case executor.KindDone:
		v := p.open[e.Step]
		if v == nil {
			v = &client.Vertex{Digest: e.Step, Name: e.Name, Inputs: p.inputs[e.Step], Started: &at}
		}
		delete(p.open, e.Step)
		v.Completed = &at
		if e.Err != nil {
			v.Error = firstLine(e.Err.Error())
		}
		return vertexStatus(v)
	case executor.KindLog:
		return &client.SolveStatus{Logs: []*client.VertexLog{{
			Vertex: e.Step, Stream: e.Stream, Data: e.Log, Timestamp: at,
		}}}
	case executor.KindProgress:
		return transferStatus(e)
	}
	return nil
}

func vertexStatus(v *client.Vertex) *client.SolveStatus {
	shown := *v
	return &client.SolveStatus{Vertexes: []*client.Vertex{&shown}}
}

func transferStatus(e executor.Event) *client.SolveStatus {
	at := e.Time
	s := &client.VertexStatus{
		ID: e.ID, Vertex: e.Step, Name: e.Name, Current: e.Current, Total: e.Total, Timestamp: at, Started: &at,
	}
	if e.Total > 0 && e.Current >= e.Total {
		s.Completed = &at
	}
	return &client.SolveStatus{Statuses: []*client.VertexStatus{s}}
}

// Close ends the display and waits until all is drawn.
func (p *progress) Close() error {
	var err error
	p.closed.Do(func() {
		close(p.status)
		if err = <-p.done; err != nil {
			err = fmt.Errorf("show progress: %w", err)
		}
	})
	return err
}
