package embedded

import (
	"slices"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
)

// saveUses records in the cache, after a successful build, what each target depends on. Only eviction and reports use
// it, so errors are ignored.
func (b *build) saveUses() {
	if b.opts.Project != "" {
		_ = b.store.RecordUses(b.opts.Project, b.uses())
	}
}

// uses returns the uses of all targets in the order of the graph.
func (b *build) uses() []cache.Use {
	var all []cache.Use
	index := map[string]int{}
	for _, n := range b.nodes {
		layers, base, mounts := n.ownLayers(), n.base(), n.cacheMounts()
		for _, t := range n.step.Targets {
			k, ok := index[t]
			if !ok {
				k = len(all)
				index[t] = k
				all = append(all, cache.Use{Target: t})
			}
			u := &all[k]
			u.Layers = append(u.Layers, layers...)
			u.Mounts = append(u.Mounts, mounts...)
			if base != "" {
				u.Bases = append(u.Bases, base)
			}
		}
	}
	return all
}

// ownLayers returns the layers that the step created.
func (n *node) ownLayers() []digest.Digest {
	if n.entry == nil {
		return nil
	}
	var list []digest.Digest
	for _, out := range n.entry.Outputs {
		for _, p := range out.Parts {
			if p.Layer != "" && p.Layer != emptyLayer && !slices.Contains(list, p.Layer) {
				list = append(list, p.Layer)
			}
		}
	}
	return list
}

// base returns the manifest of a base image, or the index by which it was requested.
func (n *node) base() digest.Digest {
	image, ok := n.op.(*baseImage)
	if !ok || n.entry == nil {
		return ""
	}
	for _, l := range n.entry.Lookups {
		if l.Path == manifestNote {
			return digest.Digest(l.Answer)
		}
	}
	return image.digest
}

// cacheMounts returns the ids of the step's cache mounts, except those whose id depends on a seed.
func (n *node) cacheMounts() []string {
	x, ok := n.op.(*execStep)
	if !ok {
		return nil
	}
	var ids []string
	for _, m := range x.exec.GetMounts() {
		if m.GetMountType() == pb.MountType_CACHE && n.input(int(m.GetInput())).scratch() {
			ids = append(ids, m.GetCacheOpt().GetID())
		}
	}
	return ids
}
