package embedded

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// operation does the work of one step. Its methods are those of schedule.Worker, for one kind of op.
type operation interface {
	lookup(ctx context.Context) (found bool, err error)
	prepare(ctx context.Context) (found bool, release func(), err error)
	run(ctx context.Context) error
}

// node is one step in one run. Its operation writes its fields before the users of the step start.
type node struct {
	b     *build
	index int
	step  *planner.Step
	op    operation
	// inputs are the step's inputs by op input index.
	inputs []input

	// id is the id of the entry that served the step; keys of users contain it.
	id digest.Digest
	// outputs are the step's file systems, by output index. A local source has none.
	outputs []*chain
	// local is set for a local source only.
	local *localSource

	// unknown is set, in a preview, if the step must run before its id is known.
	unknown bool
	// willBeNew is set, in a preview, if the step's file system will certainly be a new one, because a command in it
	// runs.
	willBeNew bool

	// before is the result of an earlier attempt of this run in which the step ran. reportedCached is set if that
	// attempt reported it as cached.
	before         *executor.StepResult
	reportedCached bool

	mu sync.Mutex
	// active counts the concurrent uses of a source, see begin.
	active int
	// entry is the stored entry, nil for steps that are not stored. Its Selections grow under mu.
	entry  *cache.Entry
	result executor.StepResult
}

// input is one output of a step as its users see it. The zero input is scratch.
type input struct {
	node  *node
	index int
}

// scratch reports whether the input has no step.
func (in input) scratch() bool { return in.node == nil }

// local reports whether the input is a build context, which has no entry of its own.
func (in input) local() bool { return in.node != nil && in.node.local != nil }

// image reports whether the input is an image, such as a base.
func (in input) image() bool {
	if in.scratch() {
		return false
	}
	_, ok := in.node.op.(*baseImage)
	return ok
}

// display returns the input for display: the reference of an image, otherwise its instruction.
func (in input) display() string {
	if in.scratch() {
		return "scratch"
	}
	if base, ok := in.node.op.(*baseImage); ok {
		return base.ref
	}
	text, _ := in.node.step.Instruction()
	return keys.ShortText(text)
}

// base returns the image, with its digest, at the bottom of the input; "" if there is none.
func (in input) base() string {
	for !in.scratch() {
		switch op := in.node.op.(type) {
		case *baseImage:
			return op.ref
		case *execStep:
			if in.index != 0 {
				return "" // the output of a mount
			}
			in = op.whole[0].in
		case *fileStep:
			in = op.parent()
		default:
			merge := in.node.step.Op.GetMerge().GetInputs()
			if len(merge) == 0 {
				return ""
			}
			in = in.node.input(int(merge[0].GetInput()))
		}
	}
	return ""
}

// id returns what represents the input in a key when all of it counts.
func (in input) id(ctx context.Context) (string, error) {
	switch {
	case in.scratch():
		return "scratch", nil
	case in.local():
		d, err := in.node.local.digest(ctx, keys.Everything())
		return d.String(), err
	case in.index == 0:
		return in.node.id.String(), nil
	}
	return fmt.Sprintf("%s:%d", in.node.id, in.index), nil
}

// chain returns the input's file system as layers. For a build context that is a snapshot, taken now if there is
// none.
func (in input) chain(ctx context.Context) (*chain, error) {
	if in.scratch() {
		return nil, nil
	}
	if in.local() {
		id, err := in.node.local.snapshot(ctx, keys.Everything())
		if err != nil {
			return nil, err
		}
		return (*chain)(nil).push(id, false), nil
	}
	if in.index < 0 || in.index >= len(in.node.outputs) {
		return nil, fmt.Errorf("step %s, output %d: %w", in.node.step.Name, in.index, errNoChain)
	}
	return in.node.outputs[in.index], nil
}

// errNoChain means that a step has no such output or, in a preview, that it has not run.
var errNoChain = errors.New("no such output")

// read calls f with the input's files. If f needs the content of a layer known only by its index, the layer is
// unpacked and f is called again from the beginning.
func (in input) read(ctx context.Context, f func(tree.FS) error) error {
	if in.scratch() {
		return f(layerfs.NewView(nil))
	}
	if in.local() {
		return in.node.local.read(ctx, f)
	}
	c, err := in.chain(ctx)
	if err != nil {
		return err
	}
	return in.node.b.view(ctx, c, f)
}

// selection returns the content digest of the files that sel reads from the input. It is stored with the input's
// entry, so it is computed once for all builds.
func (in input) selection(ctx context.Context, sel tree.Selection) (digest.Digest, error) {
	if in.local() {
		return in.node.local.digest(ctx, sel)
	}
	if in.scratch() {
		return tree.SelectionDigest(ctx, layerfs.NewView(nil), sel)
	}
	name := keys.SelectionName(in.index, sel)
	if d, ok := in.node.remembered(name); ok {
		return d, nil
	}
	if d, ok := in.node.importedSelection(name); ok {
		return d, in.node.remember(name, d)
	}
	var d digest.Digest
	err := in.read(ctx, func(files tree.FS) error {
		var err error
		d, err = tree.SelectionDigest(ctx, files, sel)
		return err
	})
	if err != nil {
		return "", err
	}
	return d, in.node.remember(name, d)
}

// remembered returns a selection's digest from the step's entry.
func (n *node) remembered(name string) (digest.Digest, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.entry == nil {
		return "", false
	}
	for _, s := range n.entry.Selections {
		if s.Name == name {
			return s.Digest, true
		}
	}
	return "", false
}

// importedSelection returns a selection's digest from a remote cache.
func (n *node) importedSelection(name string) (digest.Digest, bool) {
	for _, s := range n.b.imports.selections(n.id) {
		if s.Name == name {
			return s.Digest, s.Digest.Validate() == nil
		}
	}
	return "", false
}

// remember adds a selection to the step's entry. If two processes do so at once, one note may be lost; that costs a
// computation and nothing else.
func (n *node) remember(name string, d digest.Digest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.entry == nil {
		return nil
	}
	e := *n.entry
	e.Selections = append(e.Selections[:len(e.Selections):len(e.Selections)], cache.Selection{Name: name, Digest: d})
	n.entry = &e
	if n.b.dry {
		return nil
	}
	return n.b.store.Put(&e)
}

// serveStored serves the step from the entry under a key and reports whether there is one. An entry of a remote cache
// is imported first.
func (n *node) serveStored(k digest.Digest) (bool, error) {
	e, from, err := n.b.entry(k)
	if err != nil || e == nil {
		return false, err
	}
	if from != "" {
		if err := n.b.adopt(e); err != nil {
			return false, err
		}
	}
	return true, n.serve(e)
}

// serve makes an entry the step's result.
func (n *node) serve(e *cache.Entry) error {
	outputs := make([]*chain, len(e.Outputs))
	_, ran := n.op.(*execStep)
	for i, out := range e.Outputs {
		c, err := chainOf(out, ran, func(k, index int) (*chain, error) {
			if k < 0 || k >= len(n.inputs) {
				return nil, fmt.Errorf("the entry uses input %d of %d", k, len(n.inputs))
			}
			return input{n.inputs[k].node, index}.chain(context.Background())
		})
		if n.b.dry && errors.Is(err, errNoChain) {
			outputs = nil
			break
		}
		if err != nil {
			return fmt.Errorf("cache entry %s: %w", e.Key, err)
		}
		outputs[i] = c
	}
	n.id, n.outputs, n.entry = e.ID, outputs, e
	n.result.Key = e.Key
	return nil
}

// begin marks a source as started when it is first fetched: the scheduler does not run images. Several fetches may
// begin at once; the step ends with the last of them.
func (n *node) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.active++; n.active > 1 {
		return
	}
	n.result.Status = executor.StatusRan
	if n.result.Started.IsZero() {
		n.result.Started = time.Now()
	}
	n.b.events.send(executor.Event{Step: n.step.Digest, Name: n.step.Name, Kind: executor.KindStart})
}

// end ends a fetch that begin started.
func (n *node) end(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.active--; n.active > 0 {
		return
	}
	n.result.Completed = time.Now()
	n.b.events.send(executor.Event{Step: n.step.Digest, Name: n.step.Name, Kind: executor.KindDone, Err: err})
}
