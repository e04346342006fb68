package embedded

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/executor/tree"
)

// localSource is a build context, read in place. It has no entry of its own: the keys of its readers contain the
// content digest of what they select.
//
// Stale contexts. Files may change while a build reads them. A file that changes after it was digested is noticed,
// because copied bytes are digested again and file attributes compared; tree.ErrChanged then ends the read. The
// context is dropped, its age grows, and the next reader scans it again. Steps that were keyed at the old age must
// not run: their keys describe files that no longer exist. So every step records the ages of its contexts when it is
// keyed and compares them before it uses or stores anything (keyed.overtaken). The scheduler then looks it up again,
// four times at most. Without the age two steps could be keyed on two states of one context, and an entry could hold
// other files than its key. stale_test.go shows each case.
type localSource struct {
	*keys.Context
	n *node
}

// newLocal finds the directory of a local source.
func newLocal(n *node, source *pb.SourceOp) (operation, error) {
	files, err := n.b.contexts.Open(n.b.graph, source, nil)
	if err != nil {
		return nil, err
	}
	n.local = &localSource{files, n}
	return n.local, nil
}

// lookup, prepare and run read nothing: a context is read when a step needs its files.
func (l *localSource) lookup(context.Context) (bool, error) {
	l.n.result.Status = executor.StatusNotNeeded
	return true, nil
}
func (l *localSource) prepare(context.Context) (bool, func(), error) { return true, nil, nil }
func (l *localSource) run(context.Context) error                     { return nil }

// read calls f with the context's files. If f fails because a file changed, the error wraps schedule.ErrStale and the
// context is read again.
func (l *localSource) read(ctx context.Context, f func(tree.FS) error) error {
	return stale(l.Read(ctx, f))
}

// digest returns the content digest of a selection. Each is computed once.
func (l *localSource) digest(ctx context.Context, sel tree.Selection) (digest.Digest, error) {
	d, err := l.Digest(ctx, sel)
	return d, stale(err)
}

// stale adds schedule.ErrStale to an error that reports a changed file of a context.
func stale(err error) error {
	if !errors.Is(err, tree.ErrChanged) || errors.Is(err, schedule.ErrStale) {
		return err
	}
	return fmt.Errorf("%w: %w", schedule.ErrStale, err)
}

// snapshot returns a layer with the selected files of the context at its root.
func (l *localSource) snapshot(ctx context.Context, sel tree.Selection) (digest.Digest, error) {
	return l.copyOut(ctx, sel, "/")
}

// copyOut returns the layer with the selected files under dest. The layer is named by its content and reused.
func (l *localSource) copyOut(ctx context.Context, sel tree.Selection, dest string) (digest.Digest, error) {
	age := l.Age()
	content, err := l.digest(ctx, sel)
	if err != nil {
		return "", err
	}
	id := key.Of([]key.Part{{Name: "context", Digest: content.String()}, {Name: "at", Digest: dest}})
	if l.n.b.store.HasLayer(id) {
		return id, nil
	}
	unlock, err := l.n.b.store.Lock(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	if l.n.b.store.HasLayer(id) {
		return id, nil
	}
	res, err := l.n.b.makeLayer(ctx, newLayer{
		id: id, op: copyOp(sel, dest), parent: input{}.read, inputs: []input{{node: l.n}},
		check: func() error {
			if l.Age() != age {
				return schedule.ErrOvertaken
			}
			return nil
		},
	})
	if err == nil && !res.Changed {
		id = emptyLayer
	}
	return id, err
}
