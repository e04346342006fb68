package embedded

import (
	"context"
	"runtime"
	"slices"
	"sync"
)

// ahead packs the layers that images will ship while other steps run.
type ahead struct {
	b      *build
	cancel context.CancelFunc
	ctx    context.Context
	work   chan struct{}
	wg     sync.WaitGroup
	// packings are the packings of the layers that a node adds to images.
	packings map[*node][]packing
}

// packAhead finds the steps whose layers end up in images, and how those are packed. stop must be called.
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

// want marks a step and those whose layers it hands on.
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

// addExports marks the steps whose layers go into caches elsewhere.
func (a *ahead) addExports(exports []*cacheExport) {
	for _, o := range exports {
		for n := range o.steps {
			if p := o.packing(n); o.withLayers(n) && !slices.Contains(a.packings[n], p) {
				a.packings[n] = append(a.packings[n], p)
			}
		}
	}
}

// layerInputs are the inputs whose layers are in the step's outputs.
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

// done packs what a finished step added, in the background. Errors show when the image is assembled.
func (a *ahead) done(n *node) {
	list := a.packings[n]
	if len(list) == 0 {
		return
	}
	for _, c := range n.outputs {
		if c == nil || c.base != nil || c.layer == emptyLayer || n.step.Op.GetOp() == nil {
			continue
		}
		if _, virtual := n.op.(*virtual); virtual {
			continue
		}
		for _, p := range list {
			a.start(layer{id: c.layer, ran: c.ran}, p)
		}
	}
}

// start packs a layer that is here; those of a cache from elsewhere need not be, and wait until they must.
func (a *ahead) start(l layer, p packing) {
	if _, here := a.b.store.LayerDir(l.id); !here {
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

// stop ends what is going on and waits for it.
func (a *ahead) stop() {
	a.cancel()
	a.wg.Wait()
}
