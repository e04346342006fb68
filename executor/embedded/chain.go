package embedded

import (
	"context"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
)

// emptyLayer stands in a chain for the layer of a step that changed nothing. The history of an image lists that step,
// so history and layers stay aligned. It is the diff id of an empty tar.
const emptyLayer = digest.Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")

// chain is a file system as a linked list of layers, shared with the chains that it extends: a step adds one link,
// whatever the length of the chain. The nil chain is scratch.
type chain struct {
	below *chain
	depth int
	// layer is a layer that a step created, or emptyLayer.
	layer digest.Digest
	// ran is set if a command created the layer. An image clamps the times of such a layer; it sets those of copied
	// files.
	ran bool
	// base, if not nil, stands for all layers of a base image. Their number may not be known yet.
	base *baseImage
}

// layer is one layer of an expanded chain.
type layer struct {
	id  digest.Digest // of a layer that a step created, or the diff id of a base layer; may be emptyLayer
	ran bool          // see chain
	// base is nil for a layer that a step created.
	base *baseLayer
}

// push returns c with one layer on top.
func (c *chain) push(id digest.Digest, ran bool) *chain { return c.add(&chain{layer: id, ran: ran}) }

// add puts link on top of c.
func (c *chain) add(link *chain) *chain {
	link.below, link.depth = c, 1
	if c != nil {
		link.depth = c.depth + 1
	}
	return link
}

// copy returns a link like c with nothing below it.
func (c *chain) copy() *chain { return &chain{layer: c.layer, ran: c.ran, base: c.base} }

// links returns the chain's links, bottom first.
func (c *chain) links() []*chain {
	if c == nil {
		return nil
	}
	all := make([]*chain, c.depth)
	for l := c; l != nil; l = l.below {
		all[l.depth-1] = l
	}
	return all
}

// concat returns the layers of c with those of upper on top, as a merge does.
func (c *chain) concat(upper *chain) *chain {
	if c == nil {
		return upper
	}
	for _, l := range upper.links() {
		c = c.add(l.copy())
	}
	return c
}

// above returns the links of c above lower as a chain of their own. It reports false if c does not extend lower.
func (c *chain) above(lower *chain) (*chain, bool) {
	at := c
	for at != nil && (lower == nil || at.depth > lower.depth) {
		at = at.below
	}
	if at != lower {
		return nil, false
	}
	var rest *chain
	if lower == nil {
		return c, true
	}
	for _, l := range c.links()[lower.depth:] {
		rest = rest.add(l.copy())
	}
	return rest, true
}

// layers expands the chain, bottom first. It fetches the manifests of bases that are not known yet.
func (c *chain) layers(ctx context.Context) ([]layer, error) {
	var all []layer
	for _, l := range c.links() {
		if l.base == nil {
			all = append(all, layer{id: l.layer, ran: l.ran})
			continue
		}
		base, err := l.base.layers(ctx)
		if err != nil {
			return nil, err
		}
		for _, b := range base {
			all = append(all, layer{id: b.DiffID, base: b})
		}
	}
	return all, nil
}

// chainOf rebuilds an output from the parts in its entry. ran is set for the output of a command. inputs returns the
// chain of an output of an input.
func chainOf(out cache.Output, ran bool, inputs func(input, index int) (*chain, error)) (*chain, error) {
	var c *chain
	for _, p := range out.Parts {
		if p.Layer != "" {
			c = c.push(p.Layer, ran)
			continue
		}
		in, err := inputs(p.Input, p.Index)
		if err != nil {
			return nil, fmt.Errorf("output %d of input %d: %w", p.Index, p.Input, err)
		}
		c = c.concat(in)
	}
	return c, nil
}
