package embedded

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// newLayer describes a layer to make with a file op.
type newLayer struct {
	id digest.Digest
	op *pb.FileOp
	// parent calls a function with the tree that the op changes, see input.read.
	parent func(context.Context, func(tree.FS) error) error
	inputs []input
	check  func() error // runs before the commit; returns an error if id no longer describes the files
	link   bool         // see fileop.Request.Link
}

// makeLayer runs a file op and commits the result, as the empty layer if it changed nothing.
func (b *build) makeLayer(ctx context.Context, l newLayer) (fileop.Result, error) {
	var res fileop.Result
	err := l.parent(ctx, func(parentFS tree.FS) error {
		return readAll(ctx, l.inputs, nil, func(files []tree.FS) error {
			draft, err := b.store.NewLayer()
			if err != nil {
				return err
			}
			res, err = fileop.Apply(ctx, fileop.Request{
				Op: l.op, Inputs: files, Parent: parentFS, Upper: draft.FS, UserXattr: b.userXattr, Link: l.link,
			})
			if err == nil {
				err = l.check()
			}
			if err != nil {
				return errors.Join(err, draft.Discard())
			}
			size, err := cache.MeasureLayer(draft.FS)
			if err != nil {
				return errors.Join(err, draft.Discard())
			}
			id := l.id
			if !res.Changed {
				id = emptyLayer
			}
			return draft.Commit(id, size)
		})
	})
	return res, err
}

// readAll opens all inputs, one inside the other, and calls f with their files by index.
func readAll(ctx context.Context, inputs []input, opened []tree.FS, f func([]tree.FS) error) error {
	if len(inputs) == len(opened) {
		return f(opened)
	}
	return inputs[len(opened)].read(ctx, func(files tree.FS) error {
		return readAll(ctx, inputs, append(opened[:len(opened):len(opened)], files), f)
	})
}

// copyOp returns a file op that copies a selection of its only input to dest and keeps owners.
func copyOp(sel tree.Selection, dest string) *pb.FileOp {
	return &pb.FileOp{Actions: []*pb.FileAction{{Input: int64(pb.Empty), Action: &pb.FileAction_Copy{
		Copy: &pb.FileActionCopy{
			Src: sel.Src, Dest: dest, Mode: -1, Timestamp: -1,
			FollowSymlink: sel.Follow, DirCopyContents: sel.DirContents, CreateDestPath: true,
		},
	}}}}
}

// copyTo copies a selection of an input into an empty directory outside of layers.
func (b *build) copyTo(ctx context.Context, in input, sel tree.Selection, dir string) error {
	return in.read(ctx, func(files tree.FS) error {
		_, err := fileop.Apply(ctx, fileop.Request{
			Op: copyOp(sel, "/"), Inputs: []tree.FS{files}, Parent: layerfs.NewView(nil), Upper: dir,
			UserXattr: b.userXattr,
		})
		return err
	})
}

// layerID returns the id of a layer that a step is about to create. nonce is the run's for steps that may write other
// files next time. It is empty for a layer that key identifies by its content, such as that of ADD with a URL.
func layerID(key digest.Digest, nonce string, output int) digest.Digest {
	return digest.FromString(fmt.Sprintf("layer\x00%s\x00%s\x00%d", key, nonce, output))
}
