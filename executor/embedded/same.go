package embedded

import (
	"context"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/keys"
)

// markSame sets executor.StepResult.Same of each step that has the key of an earlier step of the graph: one entry
// serves both, so people see one step. The planner cannot merge them, because only the content of the files makes them
// equal.
//
// A preview does not know the keys of steps whose inputs will run. Such a step is compared by what is known: the keys
// of its inputs where they have one, and the same comparison where they have none.
func (b *build) markSame(ctx context.Context) {
	first, known := map[digest.Digest]*node{}, map[*node]digest.Digest{}
	for _, n := range b.nodes {
		k := n.result.Key
		if k == "" && b.dry {
			k = n.foreseenKey(ctx, known)
		}
		if k == "" {
			continue
		}
		known[n] = k
		if same := first[k]; same != nil {
			n.result.Same = same.step.Digest
			continue
		}
		first[k] = n
	}
}

// foreseenKey returns a digest of what is known of a step whose key is not. It is empty for a step that cannot be
// compared, such as a source. known has the keys of the steps before it.
func (n *node) foreseenKey(ctx context.Context, known map[*node]digest.Digest) digest.Digest {
	k := n.keys()
	if k == nil || n.forced() {
		return ""
	}
	of := func(in input) (string, bool) {
		if in.scratch() {
			return "scratch", true
		}
		d, ok := known[in.node]
		return d.String(), ok
	}
	p := k.own
	for _, w := range k.whole {
		id, ok := of(w.in)
		if !ok && !w.in.image() {
			return ""
		}
		if !ok {
			id = w.in.node.step.Digest.String()
		}
		p = p.With(keys.Parts{{Name: w.name, Digest: id + " " + keys.SelectionName(w.in.index, keys.Everything())}})
	}
	for _, r := range k.reads {
		content := ""
		if r.in.local() {
			d, err := r.in.selection(ctx, r.sel)
			if err != nil {
				return ""
			}
			content = d.String()
		} else if id, ok := of(r.in); ok {
			content = id + " " + keys.SelectionName(r.in.index, r.sel)
		} else {
			return ""
		}
		p = p.With(keys.Parts{{Name: keys.PartContent + r.name, Digest: content}})
	}
	return p.With(keys.Parts{{Name: "foreseen"}}).Key()
}
