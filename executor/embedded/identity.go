package embedded

import (
	"context"
	"os"
	"strings"

	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// question asks for the user of a name in a file system.
type question struct {
	chain *chain
	name  string
}

// answer is the user, and the names in the root directory below which all files lie that were read to find it.
type answer struct {
	who   identity
	names map[string]bool
}

// maxLeftAlone bounds the layers that are searched for the answer of a lower chain.
const maxLeftAlone = 32

// user resolves the user of a step whose root is the input. The answer for a lower chain is reused if no layer above
// it touches the files that it was read from, so the steps of a long chain do not read all layers again.
func (in input) user(ctx context.Context, name string) (identity, error) {
	var found answer
	look := func(files tree.FS) (err error) {
		seen := &noting{files, map[string]bool{}}
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
	known, ok := b.answerBelow(question{c, name})
	if !ok {
		if err := b.view(ctx, c, look); err != nil {
			return identity{}, err
		}
		known = found
	}
	b.identities.Store(question{c, name}, known)
	return known.who, nil
}

// answerBelow returns the answer for a lower chain, if no layer in between touches the files that it was read from.
func (b *build) answerBelow(q question) (answer, bool) {
	var between []string
	for range maxLeftAlone {
		if q.chain == nil {
			return answer{}, false
		}
		if a, ok := b.identities.Load(q); ok {
			known := a.(answer)
			for _, dir := range between {
				if layerfs.Touches(dir, known.names) {
					return answer{}, false
				}
			}
			return known, true
		}
		if q.chain.base != nil {
			return answer{}, false
		}
		if q.chain.layer != emptyLayer {
			dir, here := b.dirHere(q.chain.layer)
			if !here {
				return answer{}, false
			}
			between = append(between, dir)
		}
		q.chain = q.chain.below
	}
	return answer{}, false
}

// noting is a tree that records the names in its root directory below which it was read.
type noting struct {
	tree.FS
	names map[string]bool
}

// Lookup implements tree.FS.
func (n *noting) Lookup(path string) (tree.Entry, error) {
	n.note(path)
	return n.FS.Lookup(path)
}

// Open implements tree.FS.
func (n *noting) Open(path string) (*os.File, error) {
	n.note(path)
	return n.FS.Open(path)
}

func (n *noting) note(path string) {
	name, _, _ := strings.Cut(strings.Trim(path, "/"), "/")
	n.names[name] = true
}
