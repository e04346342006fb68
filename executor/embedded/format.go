package embedded

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/idmap"
)

// formatFile is the name of a file in the cache directory. It exists if the layers there are those of root in a user
// namespace.
const formatFile = "userns"

// checkFormat returns an error if this process cannot read the layers in the cache. Root, and root in a user namespace
// of its own, own the same files but mark replaced directories with different attributes: trusted.overlay.*, which a
// user namespace cannot read, and user.overlay.*. So one of the two would silently see files that a layer removed.
// Other users have caches of their own. TestCacheOfOtherCapabilities in cmd/bake shows both directions.
func (e *Engine) checkFormat() error {
	own := idmap.OwnRoot()
	if !own && (idmap.InNamespace() || os.Geteuid() != 0) {
		return nil
	}
	mark := filepath.Join(e.store.Dir(), formatFile)
	_, err := os.Lstat(mark)
	if !errors.Is(err, os.ErrNotExist) && err != nil {
		return err
	}
	if marked := err == nil; marked == own {
		return nil
	}
	layers, err := os.ReadDir(filepath.Join(e.store.Dir(), "layers"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	switch {
	case own && len(layers) == 0:
		return os.WriteFile(mark, nil, 0o600)
	case len(layers) == 0:
		return os.RemoveAll(mark) // a directory in its place is damage
	}
	return &cache.Error{Op: "read layers in", Path: e.store.Dir(), Err: errors.New("they were written with other " +
		"capabilities than root has here; use another BAKE_CACHE_DIR")}
}
