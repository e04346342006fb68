package buildkitd

import (
	"bytes"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// keptLines is how many lines of a step's output an error shows, keptBytes what is remembered for that.
const (
	keptLines = 20
	keptBytes = 16 << 10
)

// status gathers what the daemons say of a run's steps, and hands it on as events.
type status struct {
	graph *planner.Graph
	to    func(executor.Event)

	mu    sync.Mutex
	last  time.Time
	steps map[digest.Digest]*stepStatus // by Step.Digest, and by name for what is not a step
}

// stepStatus is what is known of one step or activity.
type stepStatus struct {
	open   bool
	result executor.StepResult
	tail   []byte
	moved  bool                     // bytes of it came from elsewhere
	masks  map[int]*executor.Masker // by stream
}

func newStatus(g *planner.Graph, to func(executor.Event)) *status {
	return &status{graph: g, to: to, steps: map[digest.Digest]*stepStatus{}}
}

// follow reads the status of one solve until it is closed.
func (s *status) follow(d *definitions, in <-chan *client.SolveStatus) {
	for st := range in {
		for _, v := range st.Vertexes {
			s.vertex(d, v)
		}
		for _, l := range st.Logs {
			s.log(d, l)
		}
		for _, p := range st.Statuses {
			id, name := d.shown(p.Vertex, "")
			s.note(id, p.Total > 0)
			s.send(executor.Event{
				Step: id, Name: name, Kind: executor.KindProgress, ID: p.ID, Current: p.Current, Total: p.Total,
			})
		}
	}
}

// note remembers of a step that bytes moved for it.
func (s *status) note(id digest.Digest, moved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if moved {
		s.of(id).moved = true
	}
}

// shown is the digest and name under which events speak of a daemon's vertex.
func (d *definitions) shown(vertex digest.Digest, name string) (digest.Digest, string) {
	if step := d.steps[vertex]; step != nil {
		return step.Digest, step.Name
	}
	return vertex, name
}

// vertex takes what became of a step. A step that was solved for several images is told once.
func (s *status) vertex(d *definitions, v *client.Vertex) {
	if v.Started == nil {
		return
	}
	id, name := d.shown(v.Digest, v.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.of(id)
	event := executor.Event{Step: id, Name: name, Kind: executor.KindStart}
	known := !st.result.Completed.IsZero()
	switch {
	case v.Completed == nil && (known || st.open), known && (v.Error == "" || st.result.Err != nil):
		return
	case v.Completed == nil:
		st.open = true
		s.tell(event)
		return
	}
	st.finish(v)
	for _, m := range st.masks {
		_ = m.Close() // what it held back is told now
	}
	if v.Cached && v.Error == "" && !st.open {
		event.Kind = executor.KindCached
		s.tell(event)
		return
	}
	if !st.open {
		s.tell(event)
	}
	event.Kind, event.Err = executor.KindDone, st.result.Err
	s.tell(event)
}

// of is what is known of a step.
func (s *status) of(id digest.Digest) *stepStatus {
	st := s.steps[id]
	if st == nil {
		st = &stepStatus{result: executor.StepResult{Digest: id}, masks: map[int]*executor.Masker{}}
		s.steps[id] = st
	}
	return st
}

// finish notes the end of a step.
func (st *stepStatus) finish(v *client.Vertex) {
	st.result.Started, st.result.Completed = *v.Started, *v.Completed
	switch {
	case v.Error != "":
		st.result.Status, st.result.Err = executor.StatusFailed, vertexError(plain(vertexError(v.Error)).Error())
	case v.Cached:
		st.result.Status = executor.StatusCached
	default:
		st.result.Status, st.result.Reason = executor.StatusRan, "the builder had no result for it"
	}
}

// vertexError is what a daemon says of a step that failed.
type vertexError string

// Error implements error.
func (e vertexError) Error() string { return string(e) }

// failure is the error of a step that failed, or nil.
func (s *status) failure(step *planner.Step) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.steps[step.Digest]; st != nil {
		return st.result.Err
	}
	return nil
}

// forget makes a step that a lost builder had begun look as if it had not: another one does it again.
func (s *status) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.steps {
		if st.result.Err != nil {
			st.result, st.tail = executor.StepResult{Digest: st.result.Digest}, nil
		}
	}
}

// log takes output of a step, free of the secrets that it was given.
func (s *status) log(d *definitions, l *client.VertexLog) {
	id, name := d.shown(l.Vertex, "")
	s.output(id, name, l.Stream, l.Data, func() [][]byte {
		if step := d.steps[l.Vertex]; step != nil {
			return d.offers.secretsOf(step)
		}
		return nil
	})
}

// output takes a piece of a step's output; secrets says what must not show in it.
func (s *status) output(id digest.Digest, name string, stream int, data []byte, secrets func() [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.of(id)
	m := st.masks[stream]
	if m == nil {
		m = executor.NewMasker(secrets(), func(p []byte) {
			st.keep(p)
			s.tell(executor.Event{Step: id, Name: name, Kind: executor.KindLog, Stream: stream, Log: bytes.Clone(p)})
		})
		st.masks[stream] = m
	}
	_, _ = m.Write(data) // it never fails
}

// tested notes what became of a test, which is no step of the daemon's.
func (s *status) tested(step *planner.Step, result executor.StepResult) {
	result.Digest = step.Digest
	e := executor.Event{Step: step.Digest, Name: step.Name, Kind: executor.KindDone, Err: result.Err}
	if result.Status == executor.StatusCached {
		e.Kind = executor.KindCached
		result.Started = time.Now()
		result.Completed = result.Started
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(step.Digest).result = result
	s.tell(e)
}

// keep remembers the end of a step's output.
func (st *stepStatus) keep(p []byte) {
	st.tail = append(st.tail, p...)
	if over := len(st.tail) - keptBytes; over > 0 {
		st.tail = bytes.Clone(st.tail[over:])
	}
}

// lines are the last lines of a step's output.
func (s *status) lines(id digest.Digest) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.steps[id]
	if st == nil || len(st.tail) == 0 {
		return nil
	}
	var out []string
	for line := range bytes.Lines(st.tail) {
		out = append(out, string(bytes.TrimRight(line, "\r\n")))
	}
	return out[max(0, len(out)-keptLines):]
}

// send tells an event.
func (s *status) send(e executor.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(e)
}

// tell stamps an event and hands it over, one at a time; s.mu is held.
func (s *status) tell(e executor.Event) {
	if s.to == nil {
		return
	}
	if e.Time = time.Now(); e.Time.Before(s.last) {
		e.Time = s.last
	}
	s.last = e.Time
	s.to(e)
}

// results is what became of all steps, in graph order. A step of which no daemon said anything was not needed: what
// stands on it was known.
func (s *status) results() []executor.StepResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]executor.StepResult, len(s.graph.Steps))
	for i, step := range s.graph.Steps {
		out[i] = executor.StepResult{Digest: step.Digest, Status: executor.StatusNotNeeded}
		st := s.steps[step.Digest]
		switch {
		case st == nil:
		case st.result.Completed.IsZero():
			out[i].Status = executor.StatusSkipped
		default:
			out[i] = st.result
			if out[i].Status == executor.StatusRan && looksOnly(step, st) {
				out[i].Status, out[i].Reason = executor.StatusNotNeeded, ""
			}
		}
	}
	return out
}

// looksOnly says of a source that it made nothing: contexts are compared and bases are looked at in every build.
func looksOnly(step *planner.Step, st *stepStatus) bool {
	id := step.Op.GetSource().GetIdentifier()
	return isLocal(step) || !st.moved && (strings.HasPrefix(id, "docker-image://") || strings.HasPrefix(id, "oci-layout://"))
}
