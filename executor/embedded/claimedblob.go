package embedded

import (
	"cmp"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
)

// claimedBlob is a blob of an image that has the layer of a step which a remote cache claims.
type claimedBlob struct {
	layer    digest.Digest
	encoding string
	from     string
}

// layersClaimed returns the remote caches that claim layers. Call it when all steps are done.
func (b *build) layersClaimed() map[digest.Digest]string {
	all := map[digest.Digest]string{}
	for _, n := range b.nodes {
		if from := cmp.Or(n.from, n.selector); from != nil {
			for _, id := range n.ownLayers() {
				all[id] = from.origin.String()
			}
		}
	}
	return all
}

// noteClaimed records that an image has a blob, if a remote cache claims its layer.
func (b *build) noteClaimed(l layer, blob cache.Packed) {
	if from := b.claimedLayers()[l.id]; from != "" && blob.Digest != "" {
		b.claimed.Store(blob.Digest, claimedBlob{l.id, blob.Encoding, from})
	}
}

// markClaimed marks the layers of images whose steps remote caches claim. A blob that is recorded in the store was read
// and verified here, see fetchPacked.
func (b *build) markClaimed(images []executor.ImageResult) {
	for i := range images {
		for _, p := range images[i].Platforms {
			for k := range p.Layers {
				v, ok := b.claimed.Load(p.Layers[k].Digest)
				if !ok {
					continue
				}
				c := v.(claimedBlob)
				_, read := b.packed(c.layer, c.encoding)
				p.Layers[k].Claim, p.Layers[k].Unread = c.from, !read
			}
		}
	}
}
