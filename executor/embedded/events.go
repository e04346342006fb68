package embedded

import (
	"bytes"
	"sync"
	"time"

	"github.com/bakebuild/bake/executor"
)

// events passes events to the receiver, one at a time and with non-decreasing times.
type events struct {
	mu   sync.Mutex
	to   func(executor.Event)
	last time.Time

	counts sync.Mutex
	going  map[string]int // activities of one name
}

// newEvents returns events for f, which may be nil.
func newEvents(f func(executor.Event)) *events { return &events{to: f} }

// send sets the time of e and passes it on.
func (v *events) send(e executor.Event) {
	if v.to == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.Time = time.Now(); e.Time.Before(v.last) {
		e.Time = v.last
	}
	v.last = e.Time
	v.to(e)
}

// log sends a copy of a piece of a step's output.
func (v *events) log(n *node, stream int, p []byte) {
	if v.to == nil {
		return
	}
	v.send(executor.Event{
		Step: n.step.Digest, Name: n.step.Name, Kind: executor.KindLog, Stream: stream, Log: bytes.Clone(p),
	})
}
