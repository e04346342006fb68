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

// progress shows the events of an engine with BuildKit's progress display.
type progress struct {
	ctx    context.Context // never cancelled: the display also shows how a cancelled build ends
	w      io.Writer
	mode   string
	mu     sync.Mutex // held while an event is sent, and during Suspend
	status chan *client.SolveStatus
	done   chan error
	inputs map[digest.Digest][]digest.Digest
	open   map[digest.Digest]*client.Vertex
	closed sync.Once
}

// startProgress opens a display of a --progress mode on w. The empty mode is "auto".
func startProgress(ctx context.Context, w io.Writer, mode string, g *planner.Graph) (*progress, error) {
	p := &progress{
		ctx: context.WithoutCancel(ctx), w: w, mode: mode,
		inputs: inputsOf(g), open: map[digest.Digest]*client.Vertex{},
	}
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

// Suspend closes the display while f runs. Events wait until f returns.
func (p *progress) Suspend(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.status)
	<-p.done
	f()
	p.status, p.done = make(chan *client.SolveStatus), make(chan error, 1)
	if p.start() != nil { // unlikely, since the same display was opened before
		p.silence()
	}
}

// silence discards all further events.
func (p *progress) silence() {
	go func() {
		for range p.status {
			continue
		}
		p.done <- nil
	}()
}

// newDisplay opens a display. "none" is a synonym of "quiet". "auto" is "plain" in CI and on a dumb terminal.
func newDisplay(w io.Writer, mode string) (progressui.Display, error) {
	switch {
	case mode == "none":
		mode = string(progressui.QuietMode)
	case (mode == "" || mode == "auto") && (os.Getenv("TERM") == "dumb" || isTrue(os.Getenv("CI"))):
		mode = string(progressui.PlainMode)
	}
	display, err := progressui.NewDisplay(w, progressui.DisplayMode(mode))
	if err != nil && mode == string(progressui.TtyMode) {
		return display, usagef("--progress=tty: %w; use --progress=plain", err)
	}
	if err != nil {
		return display, usagef("--progress=%s: expected auto, plain, tty, quiet, rawjson or none", mode)
	}
	return display, nil
}

// isTrue reports whether an environment variable such as CI is on: not empty, 0 or false.
func isTrue(v string) bool { return v != "" && v != "0" && v != "false" }

// inputsOf returns the digests of each step's inputs.
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

// translate returns an event in the form of BuildKit's client; nil for events that are not displayed.
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

// vertexStatus returns the status of a copy of v: the display keeps it, and a later event changes v.
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

// Close ends the display and waits until everything is drawn.
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
