package embedded

import (
	"context"
	"runtime"
	"slices"
	"sync"
)

// ahead packs the layers that images and exported caches ship while other steps run.
//
// Packing (tar and compression) takes about as long as many steps, and processors are idle while steps wait for each
// other. So the packings of each step's layers are computed before the build starts, and a layer is packed as soon as
// its step is done. The invariant: packing ahead changes no result. It makes the same blob that build.pack would make
// at the export, and build.pack finds it under the same key. Errors are dropped here, because build.pack runs again
// at the export and reports them. At most NumCPU layers are packed at once, and stop waits for all of them, so that
// nothing writes after the run. The cost is wasted work if the build fails later.
type ahead struct {
	b      *build
	cancel context.CancelFunc
	ctx    context.Context
	work   chan struct{}
	wg     sync.WaitGroup
	// packings are the packings of the layers that a node adds to images and exported caches.
	packings map[*node][]packing
}

// packAhead finds the steps whose layers images ship, and how those layers are packed. The caller must call stop.
func (b *build) packAhead(ctx context.Context, packings func(image int) []packing) *ahead {
	a := &ahead{b: b, work: make(chan struct{}, runtime.NumCPU()), packings: map[*node][]packing{}}
	a.ctx, a.cancel = context.WithCancel(ctx)
	for i, image := range b.graph.Images {
		for _, p := range packings(i) {
			a.want(b.of(image.Root).node, p)
		}
	}
	return a
}

// want adds a packing to a step and to the inputs whose layers its outputs contain.
func (a *ahead) want(n *node, p packing) {
	if n == nil {
		return
	}
	for _, have := range a.packings[n] {
		if have == p {
			return
		}
	}
	a.packings[n] = append(a.packings[n], p)
	for _, k := range n.layerInputs() {
		a.want(n.input(k).node, p)
	}
}

// addExports adds the packings of layers that are exported to remote caches.
func (a *ahead) addExports(exports []*cacheExport) {
	for _, o := range exports {
		for n := range o.steps {
			if p := o.packing(n); o.withLayers(n) && !slices.Contains(a.packings[n], p) {
				a.packings[n] = append(a.packings[n], p)
			}
		}
	}
}

// layerInputs lists the inputs whose layers the step's outputs contain.
func (n *node) layerInputs() []int {
	op := n.step.Op
	var list []int
	switch {
	case op.GetExec() != nil:
		for _, m := range op.GetExec().GetMounts() {
			if m.GetOutput() >= 0 {
				list = append(list, int(m.GetInput()))
			}
		}
	case op.GetFile() != nil && len(op.GetFile().GetActions()) > 0:
		list = append(list, int(op.GetFile().GetActions()[0].GetInput()))
	case op.GetDiff() != nil:
		list = append(list, int(op.GetDiff().GetUpper().GetInput()))
	case op.GetMerge() != nil, op.GetPassthrough() != nil:
		for i := range n.inputs {
			list = append(list, i)
		}
	}
	return list
}

// done starts packing the layers of a finished step.
func (a *ahead) done(n *node) {
	list := a.packings[n]
	if len(list) == 0 {
		return
	}
	for _, c := range n.outputs {
		if c == nil || c.base != nil || c.layer == emptyLayer || n.step.Op.GetOp() == nil {
			continue
		}
		if _, virtual := n.op.(*virtual); virtual { // the layers are those of other steps
			continue
		}
		for _, p := range list {
			a.start(layer{id: c.layer, ran: c.ran}, p)
		}
	}
}

// start packs a layer that is on this machine. A layer of a remote cache may not be; fetching it ahead of need could
// be useless work.
func (a *ahead) start(l layer, p packing) {
	if !a.b.store.HasLayer(l.id) {
		return
	}
	a.wg.Go(func() {
		select {
		case a.work <- struct{}{}:
			defer func() { <-a.work }()
			_, _ = a.b.pack(a.ctx, l, p)
		case <-a.ctx.Done():
		}
	})
}

// stop cancels what is running and waits for it.
func (a *ahead) stop() {
	a.cancel()
	a.wg.Wait()
}
