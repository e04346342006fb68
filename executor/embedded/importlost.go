package embedded

import (
	"errors"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// Bounds of the layers of one cache that a run loses. Each costs a run of the graph, and an index can offer many layers
// for one step, so a cache with more is not used any more. A cache that lacks layers is likely to be honest: an export
// with mode=min, or a registry that deleted blobs.
const (
	maxUnusable = 5
	maxMissing  = 64 // or two for each step
)

// lose records that a layer cannot be fetched and returns a lostError.
func (c *imports) lose(l importedLayer, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.lost[l.id] {
		c.lost[l.id], c.more = true, true
		c.blame(l, err)
		if bad, ok := remotecache.Unusable(err); ok {
			c.unusable[bad] = true
		}
	}
	return &lostError{l.id, err}
}

// blame warns of a lost layer, and stops the use of its cache after too many. The caller holds c.mu.
func (c *imports) blame(l importedLayer, err error) {
	s := l.from
	if s == nil || s.stopped.Load() {
		return
	}
	left, gone := errors.Is(err, errLeftBehind), new(remotecache.MissingError)
	if !left {
		c.warn(fmt.Sprintf("layer %s of the cache %s cannot be used: %v; its step runs again", l.ID, s, err))
	}
	if left || errors.As(err, &gone) {
		s.lacking++
	} else {
		s.unusable++
	}
	if s.unusable > maxUnusable || s.lacking > max(maxMissing, 2*c.steps) {
		s.stopped.Store(true)
		c.warn(fmt.Sprintf("the cache %s is not used any more: %d of its layers cannot be used", s,
			s.unusable+s.lacking))
	}
}

// loseStopped returns a lostError for a layer of a cache that is not used any more. Another cache may have the layer.
func (c *imports) loseStopped(l importedLayer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.more = true
	return &lostError{l.id, errStopped}
}

// lostMore reports whether layers were lost since the last call.
func (c *imports) lostMore() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	more := c.more
	c.more = false
	return more
}

// distrusts reports whether a blob was found damaged or missing.
func (c *imports) distrusts(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unusable[d]
}

// lostError means that a layer named by a remote cache cannot be fetched. The graph runs again without it.
type lostError struct {
	id  digest.Digest
	err error
}

// Error implements error.
func (e *lostError) Error() string { return fmt.Sprintf("layer %s: %v", e.id, e.err) }

// Unwrap returns the cause.
func (e *lostError) Unwrap() error { return e.err }

// errStopped is the cause of a lostError that was not the layer's fault.
var errStopped = errors.New("its cache is not used any more")

var errLeftBehind = errors.New("the cache was exported without this layer (mode=min)")
