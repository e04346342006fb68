package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bakebuild/bake/executor/cache"
)

// fillMount fills a new cache mount from a remote cache. If that fails, the mount starts empty.
func (b *build) fillMount(ctx context.Context, id string, m *cache.Mount) (filled bool, err error) {
	l, ok := b.imports.mount(id)
	if !ok {
		return false, nil
	}
	index, err := b.readPaths(ctx, l)
	if err == nil {
		_, err = b.unpackInto(ctx, l, index, m.Dir)
	}
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	}
	b.imports.warn(fmt.Sprintf("the cache mount %s of the cache %s starts empty: %v", id, l.from, err))
	return false, clearDir(m.Dir)
}

// clearDir empties a directory that only this process uses.
func clearDir(dir string) error {
	names, err := os.ReadDir(dir)
	for _, n := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, n.Name())))
	}
	return errors.Join(err, os.Chmod(dir, 0o755))
}
