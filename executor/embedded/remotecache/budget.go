package remotecache

import (
	"fmt"
	"sync"
)

// Budget of the look-ups of one run.
//
// The problem: reading an index is linear in what was sent, but look-ups are not. Each decodes an element again, so one
// large element under the names of all steps costs its size each time, and each step that takes it keeps a copy. The
// idea: an element that was refused is not read again, and the bytes that look-ups decode and that a run keeps have
// bounds. A cache that exceeds one is not used for the rest of the run; steps that took results from it keep them.
const (
	// A look-up decodes an entry of some kilobytes, and a build of n steps makes a few look-ups for each.
	freeDecoded = 256 << 20 // bytes
	maxDecodes  = 8         // times the text of the index
	freeKept    = 64 << 20  // bytes
	keptPerStep = 64 << 10
	maxKept     = 512 << 20
	// maxGroup bounds the entries that Catalog.Group returns together.
	maxGroup = 16 << 20 // bytes
	// sizeOfValue is about what a short JSON value takes in memory beyond its text.
	sizeOfValue = 32 // bytes
)

// budget is what look-ups have used. The zero value has no bounds.
type budget struct {
	mu            sync.Mutex
	refused       map[uint32]bool // numbers of spans
	decoded, kept int64           // bytes
	most          struct{ decoded, kept int64 }
	over          func(error) // called once; nil before Limit
	stopped       bool
}

// Limit bounds what the look-ups of a run of that many steps may cost. over is called once if they cost more; then
// nothing is found any more. Call it before the first look-up.
func (c *Catalog) Limit(steps int, over func(error)) {
	b := &c.used
	b.most.decoded = freeDecoded + maxDecodes*c.texts.end
	b.most.kept = min(freeKept+keptPerStep*int64(steps), maxKept)
	b.over = over
}

// decode reports whether a span may be decoded, and counts it.
func (b *budget) decode(number uint32, size int64) bool {
	b.mu.Lock()
	if b.stopped || b.refused[number] {
		b.mu.Unlock()
		return false
	}
	b.decoded += size
	return b.unlock()
}

// keep reports whether the run may keep what was decoded from a text of that many bytes, and counts it.
func (b *budget) keep(size int64) bool {
	b.mu.Lock()
	b.kept += size
	return b.unlock()
}

// unlock unlocks b and reports whether the bounds hold.
func (b *budget) unlock() bool {
	var err error
	switch {
	case b.over == nil:
	case b.decoded > b.most.decoded:
		err = fmt.Errorf("look-ups in its index have read more than %d bytes", b.most.decoded)
	case b.kept > b.most.kept:
		err = fmt.Errorf("its entries take more than %d bytes of memory", b.most.kept)
	}
	first := err != nil && !b.stopped
	b.stopped = err != nil
	b.mu.Unlock()
	if first {
		b.over(err)
	}
	return err == nil
}

// refuse notes that a span is of no use for this run.
func (b *budget) refuse(number uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refused == nil {
		b.refused = map[uint32]bool{}
	}
	b.refused[number] = true
}

// memory returns about what an entry takes in memory that was decoded from a text of that many bytes.
func (e *Entry) memory(size int64) int64 {
	return size + sizeOfValue*int64(len(e.Inputs)+len(e.Lookups)+len(e.Selections)+len(e.Aliases))
}
