package buildkitd

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// keptLines is how many lines of a step's output an error shows. keptBytes bounds the output that is kept for them.
const (
	keptLines = 20
	keptBytes = 16 << 10
)

// status collects the daemons' status of a run's steps and passes it on as events.
type status struct {
	graph *planner.Graph
	to    func(executor.Event)

	mu    sync.Mutex
	last  time.Time
	steps map[digest.Digest]*stepStatus // by Step.Digest; other vertices by their own digest
}

// stepStatus is the status of one step or activity.
type stepStatus struct {
	open   bool // a start was emitted
	result executor.StepResult
	// failures are the failures that builders reported, one for each builder. result is the first, or a success.
	failures []stepFailure
	tail     []byte
	moved    bool                     // bytes were transferred for it
	masks    map[int]*executor.Masker // by stream
}

// stepFailure is a failed result and the steps of the builder that reported it.
type stepFailure struct {
	from   *definitions
	result executor.StepResult
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
			if p.Total > 0 {
				s.markTransferred(id)
			}
			s.send(executor.Event{
				Step: id, Name: name, Kind: executor.KindProgress, ID: p.ID, Current: p.Current, Total: p.Total,
			})
		}
	}
}

// markTransferred records that bytes were transferred for a step.
func (s *status) markTransferred(id digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(id).moved = true
}

// shown returns the digest and name that events use for a daemon's vertex.
func (d *definitions) shown(vertex digest.Digest, name string) (digest.Digest, string) {
	if step := d.steps[vertex]; step != nil {
		return step.Digest, step.Name
	}
	return vertex, name
}

// vertex handles the status of a step. A step that was solved for several images gives one start and one end. The first
// completion is final, except that an error replaces a success, and that forget may drop it.
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
	case v.Completed == nil && (known || st.open), known && v.Error == "":
		return
	case known && st.result.Err != nil:
		st.addFailure(d, resultOf(id, v)) // it stays if the first builder is lost
		return
	case v.Completed == nil:
		st.open = true
		s.emit(event)
		return
	}
	st.finish(d, resultOf(id, v))
	for _, m := range st.masks {
		_ = m.Close() // emits what it held back
	}
	if v.Cached && v.Error == "" && !st.open {
		event.Kind = executor.KindCached
		s.emit(event)
		return
	}
	if !st.open {
		s.emit(event)
	}
	event.Kind, event.Err = executor.KindDone, st.result.Err
	s.emit(event)
}

// of returns the status of a step, and adds it if needed. The caller holds s.mu.
func (s *status) of(id digest.Digest) *stepStatus {
	st := s.steps[id]
	if st == nil {
		st = &stepStatus{result: executor.StepResult{Digest: id}, masks: map[int]*executor.Masker{}}
		s.steps[id] = st
	}
	return st
}

// finish sets the result of a step that has ended on a builder.
func (st *stepStatus) finish(from *definitions, result executor.StepResult) {
	st.result = result
	if result.Err != nil {
		st.addFailure(from, result)
	}
}

// addFailure keeps the first failure of each builder.
func (st *stepStatus) addFailure(from *definitions, result executor.StepResult) {
	if !slices.ContainsFunc(st.failures, func(f stepFailure) bool { return f.from == from }) {
		st.failures = append(st.failures, stepFailure{from, result})
	}
}

// resultOf returns the result of a step that has ended.
func resultOf(id digest.Digest, v *client.Vertex) executor.StepResult {
	r := executor.StepResult{Digest: id, Started: *v.Started, Completed: *v.Completed}
	switch {
	case v.Error != "":
		r.Status, r.Err = executor.StatusFailed, vertexError(plain(vertexError(v.Error)).Error())
	case v.Cached:
		r.Status = executor.StatusCached
	default:
		r.Status, r.Reason = executor.StatusRan, "the engine had no result for it"
	}
	return r
}

// vertexError is a daemon's error text for a failed step.
type vertexError string

// Error implements error.
func (e vertexError) Error() string { return string(e) }

// failure returns the error of a failed step, or nil.
func (s *status) failure(step *planner.Step) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.steps[step.Digest]; st != nil {
		return st.result.Err
	}
	return nil
}

// forget drops the failures that a lost builder reported, since another builder runs the steps again. A failure that
// another builder reported too, or alone, stays.
func (s *status) forget(lost *definitions) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.steps {
		before := len(st.failures)
		st.failures = slices.DeleteFunc(st.failures, func(f stepFailure) bool { return f.from == lost })
		switch {
		case len(st.failures) == before:
		case len(st.failures) > 0:
			st.result = st.failures[0].result
		default:
			st.result, st.tail = executor.StepResult{Digest: st.result.Digest}, nil
		}
	}
}

// log handles output of a step and masks the secrets that the step can read.
func (s *status) log(d *definitions, l *client.VertexLog) {
	id, name := d.shown(l.Vertex, "")
	s.output(id, name, l.Stream, l.Data, func() [][]byte {
		if step := d.steps[l.Vertex]; step != nil {
			return d.secrets.secretsOf(step)
		}
		return nil
	})
}

// output handles a piece of a step's output. secrets returns the values to mask.
func (s *status) output(id digest.Digest, name string, stream int, data []byte, secrets func() [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.of(id)
	m := st.masks[stream]
	if m == nil {
		m = executor.NewMasker(secrets(), func(p []byte) {
			st.keep(p)
			s.emit(executor.Event{Step: id, Name: name, Kind: executor.KindLog, Stream: stream, Log: bytes.Clone(p)})
		})
		st.masks[stream] = m
	}
	_, _ = m.Write(data) // it never fails
}

// tested sets the result of a test on a builder. A test is not a vertex of the daemon.
func (s *status) tested(from *definitions, step *planner.Step, result executor.StepResult) {
	result.Digest = step.Digest
	e := executor.Event{Step: step.Digest, Name: step.Name, Kind: executor.KindDone, Err: result.Err}
	if result.Status == executor.StatusCached {
		e.Kind = executor.KindCached
		result.Started = time.Now()
		result.Completed = result.Started
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(step.Digest).finish(from, result)
	s.emit(e)
}

// keep keeps the end of a step's output.
func (st *stepStatus) keep(p []byte) {
	st.tail = append(st.tail, p...)
	if over := len(st.tail) - keptBytes; over > 0 {
		st.tail = bytes.Clone(st.tail[over:])
	}
}

// lines returns the last lines of a step's output.
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

// send emits an event.
func (s *status) send(e executor.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.emit(e)
}

// emit stamps an event and passes it on, one at a time. The caller holds s.mu.
func (s *status) emit(e executor.Event) {
	if s.to == nil {
		return
	}
	if e.Time = time.Now(); e.Time.Before(s.last) {
		e.Time = s.last
	}
	s.last = e.Time
	s.to(e)
}

// results returns the results of all steps, in graph order. A step that no daemon reported was not needed: a later step
// was cached.
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

// looksOnly reports whether a source was only checked: every build compares contexts and resolves bases.
func looksOnly(step *planner.Step, st *stepStatus) bool {
	id := step.Op.GetSource().GetIdentifier()
	isImage := strings.HasPrefix(id, "docker-image://") || strings.HasPrefix(id, "oci-layout://")
	return isLocal(step) || !st.moved && isImage
}
