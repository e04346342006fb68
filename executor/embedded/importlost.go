package embedded

import (
	"errors"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// lose records that a layer cannot be fetched and returns a lostError.
func (c *imports) lose(l importedLayer, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.lost[l.id] {
		c.lost[l.id], c.more = true, true
		if l.Blob != nil {
			c.warn(fmt.Sprintf("layer %s of the cache %s cannot be used: %v; its step runs again", l.ID, l.from, err))
		}
		if bad, ok := remotecache.Unusable(err); ok {
			c.unusable[bad] = true
		}
	}
	return &lostError{l.id, err}
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

var errLeftBehind = errors.New("the cache was exported without this layer (mode=min)")
