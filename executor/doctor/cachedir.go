package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/docker/go-units"

	"github.com/bakebuild/bake/executor/cache"
)

// cacheDir opens the cache once for all checks that need it.
type cacheDir struct {
	dir string
	// open opens the cache, as cache.Open does.
	open func(dir string) (*cache.Store, error)

	once  sync.Once
	store *cache.Store
	trial string // a temporary cache next to where the cache will be; "" if the cache exists
	err   error
}

// get opens the cache. If there is none yet, it opens a temporary one in the nearest existing directory: the cache must
// belong to the user who builds, who may be another one.
func (c *cacheDir) get() (*cache.Store, error) {
	c.once.Do(func() {
		dir := c.dir
		near, err := cache.Nearest(dir)
		if err == nil && near != dir {
			c.trial, err = os.MkdirTemp(near, ".bake-doctor-")
			dir = c.trial
		}
		var already *cache.Error
		if err != nil && !errors.As(err, &already) {
			err = &cache.Error{Op: "create a directory in", Path: near, Err: err}
		}
		if c.err = err; err == nil {
			c.store, c.err = c.open(dir)
		}
	})
	return c.store, c.err
}

// close closes the cache and removes a temporary one.
func (c *cacheDir) close() error {
	c.once.Do(func() { c.err = errors.New("not opened") })
	var err error
	if c.store != nil {
		err = c.store.Close()
	}
	if c.trial != "" {
		err = errors.Join(err, os.RemoveAll(c.trial))
	}
	return err
}

// check checks that this user can use the cache.
func (c *cacheDir) check() Check {
	return Check{Name: "cache", Run: func(context.Context) Finding {
		s, err := c.get()
		if err != nil {
			return cacheFault(err)
		}
		if c.trial != "" {
			return okf("%s does not exist yet, and can be created (%s)", c.dir, cache.FileSystem(c.trial))
		}
		if owner, err := s.Owner(); err == nil && owner != os.Geteuid() {
			return warn(fmt.Sprintf("%s belongs to user %d, who cannot use what this user adds to it", c.dir, owner),
				"set BAKE_CACHE_DIR to a directory of this user, or build as that user")
		}
		var repaired []string
		s.SetNote(func(text string) { repaired = append(repaired, text) })
		if err := s.Inspect(); err != nil {
			return cacheFault(err)
		}
		if len(repaired) > 0 {
			return warn(strings.Join(repaired, "; "), "to look for more damage, run: bake cache check")
		}
		return okf("%s (%s)", c.dir, cache.FileSystem(c.dir))
	}}
}

// cacheFault returns the finding for an error of the cache, whose text says what to do.
func cacheFault(err error) Finding { return fail(err.Error(), "") }

const (
	// A build cannot even start with less than this.
	leastSpace, leastFiles = 16 << 20, 1000
	// A build of one small image fits in this.
	lowSpace, lowFiles = 1 << 30, 100_000
)

// disk checks the free space and the free inodes of the file system that holds the cache.
func disk(dir string) Check {
	return Check{Name: "disk", Run: func(context.Context) Finding {
		const fix = "free some, for example with bake cache prune --all, or set BAKE_CACHE_DIR to another disk"
		s, err := cache.SpaceOf(dir)
		if err != nil {
			return cacheFault(err)
		}
		text := units.HumanSizeWithPrecision(float64(s.Free), 3) + " of " +
			units.HumanSizeWithPrecision(float64(s.Size), 3) + " free"
		if s.Inodes > 0 {
			text += fmt.Sprintf(", %d of %d inodes free", s.FreeInodes, s.Inodes)
		}
		switch {
		case s.Free < leastSpace || s.Inodes > 0 && s.FreeInodes < leastFiles:
			return fail(text, fix)
		case s.Free < lowSpace || s.Inodes > 0 && s.FreeInodes < lowFiles:
			return warn(text, fix)
		}
		return okf("%s", text)
	}}
}
