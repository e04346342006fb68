package report

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
)

// timing is the time of one step that ran.
type timing struct {
	span         int       // index into Run.Spans
	ready        time.Time // when its last input was finished
	start, end   time.Time
	last         int // the step it waited for last, for an input or for a slot; -1 if none
	criticalPath bool
}

// timings returns the timings of the steps that took time, by index of the step.
func (r Run) timings() map[int]*timing {
	byDigest := make(map[digest.Digest]int, len(r.Steps))
	for i, s := range r.Steps {
		byDigest[s.Digest] = i
	}
	all := map[int]*timing{}
	for i, s := range r.Spans {
		if step, ok := byDigest[s.Step]; ok && !s.Cached {
			all[step] = &timing{span: i, start: s.Start, end: s.End, last: -1}
		}
	}
	began := r.Started
	if len(r.Spans) > 0 {
		began = r.Spans[0].Start
	}
	for i, t := range all {
		t.ready = began
		r.readiness(i, t, all, map[int]bool{})
		if t.ready.After(t.start) {
			t.ready = t.start
		}
	}
	followSlots(all)
	markCriticalPath(all)
	return all
}

// slotWait is the minimum time between ready and start for a step to count as waiting for a slot.
const slotWait = time.Millisecond

// followSlots sets last for steps that waited for a slot: to the step that ended last before their start, and so
// released the slot.
func followSlots(all map[int]*timing) {
	byEnd := slices.SortedFunc(maps.Keys(all), func(a, b int) int {
		return cmp.Or(all[a].end.Compare(all[b].end), cmp.Compare(a, b))
	})
	for _, t := range all {
		if t.start.Sub(t.ready) < slotWait {
			continue
		}
		i, _ := slices.BinarySearchFunc(byEnd, t.start, func(step int, start time.Time) int {
			if all[step].end.After(start) {
				return 1
			}
			return -1
		})
		if i > 0 && !all[byEnd[i-1]].end.Before(t.ready) {
			t.last = byEnd[i-1]
		}
	}
}

// readiness sets ready to the latest end of a step's inputs, and last to that input. It looks through inputs that took
// no time.
func (r Run) readiness(i int, t *timing, all map[int]*timing, seen map[int]bool) {
	for _, in := range r.Steps[i].Inputs {
		if seen[in] {
			continue
		}
		seen[in] = true
		if before := all[in]; before == nil {
			r.readiness(in, t, all, seen)
		} else if before.end.After(t.ready) {
			t.ready, t.last = before.end, in
		}
	}
}

// markCriticalPath marks the step that ended last, the step it waited for, and so on back to the beginning.
func markCriticalPath(all map[int]*timing) {
	at, end := -1, time.Time{}
	for i, t := range all {
		if t.end.After(end) || t.end.Equal(end) && i > at {
			at, end = i, t.end
		}
	}
	for at >= 0 && !all[at].criticalPath {
		all[at].criticalPath = true
		at = all[at].last
	}
}

// SharedLayer is a layer and the images that contain it.
type SharedLayer struct {
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"` // compressed, in bytes
	CreatedBy string        `json:"createdBy,omitempty"`
	Base      bool          `json:"base,omitempty"`
	Images    []int         `json:"images"` // indices into Run.Images
}

// Layers returns the layers of all images without duplicates, the largest first.
func (r Run) Layers() []SharedLayer {
	layers := []SharedLayer{}
	at := map[digest.Digest]int{}
	for i, image := range r.Images {
		for _, l := range image.Layers {
			k, ok := at[l.Digest]
			if !ok {
				k = len(layers)
				at[l.Digest] = k
				layers = append(layers, SharedLayer{Digest: l.Digest, Size: l.Size, CreatedBy: l.CreatedBy,
					Base: l.Base})
			}
			if of := layers[k].Images; len(of) == 0 || of[len(of)-1] != i { // an image may contain a layer twice
				layers[k].Images = append(of, i)
			}
		}
	}
	slices.SortStableFunc(layers, func(a, b SharedLayer) int { return cmp.Compare(b.Size, a.Size) })
	return layers
}

// Drift returns the bases of each repository that has several, as indices into Run.Bases.
func (r Run) Drift() [][]int {
	byRepository := map[string][]int{}
	var order []string
	for i, b := range r.Bases {
		name := repository(b.Ref)
		if len(byRepository[name]) == 0 {
			order = append(order, name)
		}
		byRepository[name] = append(byRepository[name], i)
	}
	drift := [][]int{}
	for _, name := range order {
		if len(byRepository[name]) > 1 {
			drift = append(drift, byRepository[name])
		}
	}
	return drift
}

// repository returns a reference without its tag and digest.
func repository(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	return ref
}

// took reports whether a step took time in this run.
func took(s Step) bool { return s.Status == executor.StatusRan || s.Status == executor.StatusFailed }
