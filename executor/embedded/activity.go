package embedded

import (
	"sync"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
)

// activity is work outside the steps that the progress display shows, such as reading a remote cache.
type activity struct {
	events *events
	name   string
	once   sync.Once
}

// begin shows an activity. Activities of the same name are shown as one, which ends with the last of them.
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

// log shows a line of text.
func (a *activity) log(text string) {
	a.send(executor.Event{Kind: executor.KindLog, Stream: 1, Log: []byte(text + "\n")})
}

// progress shows how many bytes of a part are done.
func (a *activity) progress(id string, done, total int64) {
	a.send(executor.Event{Kind: executor.KindProgress, ID: id, Current: done, Total: total})
}

// end ends the activity. Only the first call counts. err is shown only if no other activity of the name is active;
// otherwise it is dropped.
func (a *activity) end(err error) {
	a.once.Do(func() {
		a.events.counts.Lock()
		defer a.events.counts.Unlock()
		if a.events.going[a.name]--; a.events.going[a.name] == 0 {
			a.send(executor.Event{Kind: executor.KindDone, Err: err})
		}
	})
}
