package embedded

import (
	"context"
	"os"
	"strings"

	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// userQuery names a user in a file system. It is a key of build.identities.
type userQuery struct {
	chain *chain
	name  string
}

// userResult is the user of a userQuery. names are the top-level directories that were read to find it.
type userResult struct {
	who   identity
	names map[string]bool
}

// maxChainSearch bounds the number of lower chains that are searched for a known result.
const maxChainSearch = 32

// user resolves the user of a step whose root is the input. The result for a lower chain is reused if no layer above
// it touches the files that it was read from, so the steps of a long chain do not read all layers again.
func (in input) user(ctx context.Context, name string) (identity, error) {
	var found userResult
	look := func(files tree.FS) (err error) {
		seen := &recordingFS{files, map[string]bool{}}
		found.who, err = resolveUser(seen, name)
		found.names = seen.names
		return err
	}
	if in.scratch() || in.local() {
		err := in.read(ctx, look)
		return found.who, err
	}
	c, err := in.chain(ctx)
	if err != nil {
		return identity{}, err
	}
	b := in.node.b
	known, ok := b.resultBelow(userQuery{c, name})
	if !ok {
		if err := b.view(ctx, c, look); err != nil {
			return identity{}, err
		}
		known = found
	}
	b.identities.Store(userQuery{c, name}, known)
	return known.who, nil
}

// resultBelow returns the result for a lower chain if no layer in between touches the files that it was read from.
func (b *build) resultBelow(q userQuery) (userResult, bool) {
	var between []string
	for range maxChainSearch {
		if q.chain == nil {
			return userResult{}, false
		}
		if v, ok := b.identities.Load(q); ok {
			known := v.(userResult)
			for _, dir := range between {
				if layerfs.Touches(dir, known.names) {
					return userResult{}, false
				}
			}
			return known, true
		}
		if q.chain.base != nil {
			return userResult{}, false
		}
		if q.chain.layer != emptyLayer {
			dir, here := b.dirHere(q.chain.layer)
			if !here {
				return userResult{}, false
			}
			between = append(between, dir)
		}
		q.chain = q.chain.below
	}
	return userResult{}, false
}

// recordingFS is a tree that records the top-level directories that Lookup and Open read. resolveUser must not use any
// other method: an unrecorded read would make the build reuse a stale user.
type recordingFS struct {
	tree.FS
	names map[string]bool
}

// Lookup implements tree.FS.
func (r *recordingFS) Lookup(path string) (tree.Entry, error) {
	r.note(path)
	return r.FS.Lookup(path)
}

// Open implements tree.FS.
func (r *recordingFS) Open(path string) (*os.File, error) {
	r.note(path)
	return r.FS.Open(path)
}

func (r *recordingFS) note(path string) {
	name, _, _ := strings.Cut(strings.Trim(path, "/"), "/")
	r.names[name] = true
}
