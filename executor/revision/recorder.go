package revision

import (
	"fmt"
	"sync"

	"github.com/bakebuild/bake/config"
)

// Recorder is a View that records every lookup. Loading and planning a project depend on the disk only through their
// lookups. So if another revision gives the same answers, loading and planning it would give the same result, and
// both steps can be skipped.
type Recorder struct {
	view *View

	mu      sync.Mutex
	answers map[lookupKey]string
}

var _ config.View = (*Recorder)(nil)

// lookupKey is one lookup.
type lookupKey struct {
	kind byte // f, d or g: the methods File, Folder and Glob
	path string
}

// Record returns a Recorder of the lookups in a view.
func Record(v *View) *Recorder { return &Recorder{view: v, answers: map[lookupKey]string{}} }

func (r *Recorder) record(k lookupKey) {
	answer := r.view.answer(k)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[k] = answer
}

// File implements config.View.
func (r *Recorder) File(path string) (string, error) {
	r.record(lookupKey{'f', path})
	return r.view.File(path)
}

// Folder implements config.View.
func (r *Recorder) Folder(path string) (string, error) {
	r.record(lookupKey{'d', path})
	return r.view.Folder(path)
}

// Glob implements config.View.
func (r *Recorder) Glob(pattern string) ([]string, error) {
	r.record(lookupKey{'g', pattern})
	return r.view.Glob(pattern)
}

// SameIn reports whether another view of the same checkout gives the recorded answer to every recorded lookup.
func (r *Recorder) SameIn(other *View) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, answer := range r.answers {
		if other.answer(k) != answer {
			return false
		}
	}
	return true
}

// answer identifies the answer to a lookup. A file of the disk is identified by its path alone: both views share it.
func (v *View) answer(k lookupKey) string {
	if k.kind == 'g' {
		all, err := v.Glob(k.path)
		return fmt.Sprint(all, err)
	}
	real, o, err := v.resolve(k.path)
	if o != nil {
		return fmt.Sprint(o.id, o.IsDir(), real, err)
	}
	return fmt.Sprint(real, err)
}
