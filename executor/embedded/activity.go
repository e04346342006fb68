package embedded

import (
	"sync"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
)

// activity is something beside the steps that the progress shows, such as a cache that is read.
type activity struct {
	events *events
	name   string
	once   sync.Once
}

// begin shows an activity. Several of one name are one, which ends with the last of them.
func (v *events) begin(name string) *activity {
	a := &activity{events: v, name: name}
	v.counts.Lock()
	defer v.counts.Unlock()
	if v.going == nil {
		v.going = map[string]int{}
	}
	if v.going[name]++; v.going[name] == 1 {
		a.send(executor.Event{Kind: executor.KindStart})
	}
	return a
}

func (a *activity) send(e executor.Event) {
	e.Step, e.Name = digest.FromString(a.name), a.name
	a.events.send(e)
}

// log shows a line.
func (a *activity) log(text string) {
	a.send(executor.Event{Kind: executor.KindLog, Stream: 1, Log: []byte(text + "\n")})
}

// progress shows how far a part is, in bytes.
func (a *activity) progress(id string, done, total int64) {
	a.send(executor.Event{Kind: executor.KindProgress, ID: id, Current: done, Total: total})
}

// end ends the activity, once.
func (a *activity) end(err error) {
	a.once.Do(func() {
		a.events.counts.Lock()
		defer a.events.counts.Unlock()
		if a.events.going[a.name]--; a.events.going[a.name] == 0 {
			a.send(executor.Event{Kind: executor.KindDone, Err: err})
		}
	})
}
