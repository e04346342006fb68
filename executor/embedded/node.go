package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
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

	// id stands for the step's outputs in the keys of its users: the id of the entry of a step that ran here, else see
	// claimID. portable stands for them in portable keys, see claim.go.
	id, portable digest.Digest
	// from is the remote cache whose claim served the step, nil if it ran here. by are all that its outputs depend on.
	from *source
	by   taint
	// selector is the remote cache whose claim selected the entry, which is one of this machine; nil for none.
	selector *source
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
	entry *cache.Entry
	// selections are digests that were computed in this run for a step that is served from a claim, by name.
	selections map[string]digest.Digest
	result     executor.StepResult
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

// selection returns the content digest of the files that sel reads from the input. It is computed from files, now or
// when it was stored with the entry of a step that ran here; what a remote cache says about it does not count.
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

// claimedSelection returns the digest of a selection that a remote cache claims, and that cache; nil if the digest is
// known here or if no cache claims it.
func (in input) claimedSelection(sel tree.Selection) (digest.Digest, *source) {
	if in.local() || in.scratch() {
		return "", nil
	}
	name := keys.SelectionName(in.index, sel)
	if _, ok := in.node.remembered(name); ok {
		return "", nil
	}
	if n := in.node; n.from != nil {
		for _, s := range n.entry.Selections {
			if s.Name == name && s.Digest.Validate() == nil {
				return s.Digest, n.from
			}
		}
	}
	return in.node.b.imports.selection(in.node.portable, name)
}

// remembered returns a selection's digest that was computed here.
func (n *node) remembered(name string) (digest.Digest, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if d, ok := n.selections[name]; ok {
		return d, true
	}
	if n.entry == nil || n.from != nil {
		return "", false
	}
	for _, s := range n.entry.Selections {
		if s.Name == name {
			return s.Digest, true
		}
	}
	return "", false
}

// remember adds a selection to the step's entry. If two processes do so at once, one note may be lost; that costs a
// computation and nothing else. With a claim it is stored as a claim, and only if no other cache had a part in the
// files.
func (n *node) remember(name string, d digest.Digest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.entry == nil {
		return nil
	}
	if n.from != nil {
		if n.selections == nil {
			n.selections = map[string]digest.Digest{}
		}
		if n.selections[name] = d; !n.by.only(n.from) {
			return nil
		}
	}
	e := *n.entry
	other := func(s cache.Selection) bool { return s.Name == name }
	e.Selections = slices.DeleteFunc(slices.Clone(e.Selections), other)
	e.Selections = append(e.Selections, cache.Selection{Name: name, Digest: d})
	n.entry = &e
	switch {
	case n.b.dry:
		return nil
	case n.from != nil:
		return n.from.set.Put(&e)
	}
	return n.b.store.Put(&e)
}

// serveStored serves the step from the entry under a key and reports whether there is one.
func (n *node) serveStored(k digest.Digest) (bool, error) {
	e, from, err := n.b.entry(bothKeys{own: k, portable: k}, n.fits)
	if err != nil || e == nil {
		return false, err
	}
	if from != nil {
		if err := n.b.adopt(e, from); err != nil {
			return false, err
		}
	}
	return true, n.serve(e, from)
}

// serve makes an entry the step's result. from is the remote cache that claims it, nil for a result of this machine.
func (n *node) serve(e *cache.Entry, from *source) error {
	outputs := make([]*chain, len(e.Outputs))
	_, ran := n.op.(*execStep)
	for i, out := range e.Outputs {
		c, err := chainOf(out, ran, func(k, index int) (*chain, error) {
			return input{n.input(k).node, index}.chain(context.Background())
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
	n.outputs, n.entry, n.from, n.by, n.selector = outputs, e, from, n.inputTaint(), nil
	n.result.Key = e.Key
	return n.identify(context.Background(), e)
}

// selectedBy reports a step as claimed that is served from an entry of this machine, because a remote cache claims that
// its key is the one of the files.
func (n *node) selectedBy(from *source) {
	n.selector, n.result.Claim = from, from.origin.String()
}

// identify sets the ids of a step that is served from an entry.
func (n *node) identify(ctx context.Context, e *cache.Entry) (err error) {
	n.id, n.portable, n.result.Claim = e.ID, e.ID, ""
	if n.from != nil {
		n.by = n.by.and(taint{n.from.origin.ID()})
		n.result.Claim = n.from.origin.String()
		n.id, err = n.claimID(ctx, e, n.from)
		return err
	}
	// The id of a file operation is its key, and that of others is random.
	k := n.keys()
	if k == nil || e.ID != e.Key || !k.renamed() && !slices.ContainsFunc(e.Inputs, onlyHere) {
		return nil
	}
	parts, err := k.portableParts(ctx, e.Inputs)
	n.portable = key.Of(parts)
	return err
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
