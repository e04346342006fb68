package embedded

import (
	"context"
	"os"
	"strings"

	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// question asks who a name is in a file system.
type question struct {
	chain *chain
	name  string
}

// answer is who that is, and the names at the root of the file system below which all lies that was looked at.
type answer struct {
	who   identity
	names map[string]bool
}

// maxLeftAlone is how many layers are looked at for an answer below them.
const maxLeftAlone = 32

// user finds who a step runs as whose root is the input. Steps of a long chain do not look through all of its layers anew.
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

// answerBelow is the answer for a chain below, where all layers between leave alone what it was found in.
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

// noting is a tree that notes below which names of its root it was asked for something.
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
