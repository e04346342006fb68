package cache

import (
	"encoding/json"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// EncodingBase is the encoding of the blob that a base layer was unpacked from. It is recorded under the chain ID.
const EncodingBase = "base"

// baseLayers returns the blobs of the layers of all images in the store, by chain ID. Earlier versions did not record
// the blob of a base layer.
func (s *Store) baseLayers() map[digest.Digest]Packed {
	found := map[digest.Digest]Packed{}
	index, err := s.readIndex() // a damaged list is not restored here: Check reports it first
	if err != nil {
		if index, _, err = s.copiedIndex(); err != nil {
			return found
		}
	}
	seen := map[digest.Digest]bool{}
	for _, image := range imagesOf(index) {
		s.addBaseLayers(found, seen, image.Digest, 0)
	}
	return found
}

func (s *Store) addBaseLayers(found map[digest.Digest]Packed, seen map[digest.Digest]bool, d digest.Digest, depth int) {
	if depth > 3 || d.Validate() != nil || seen[d] {
		return
	}
	seen[d] = true
	m, ok := s.readManifest(d)
	if !ok {
		return
	}
	for _, child := range m.Manifests {
		s.addBaseLayers(found, seen, child.Digest, depth+1)
	}
	if m.Config == nil || m.Config.Digest.Validate() != nil {
		return
	}
	var config ocispecs.Image
	raw, err := readBounded(s.BlobPath(m.Config.Digest), 2*maxManifest)
	if err != nil || digest.FromBytes(raw) != m.Config.Digest || json.Unmarshal(raw, &config) != nil ||
		len(config.RootFS.DiffIDs) != len(m.Layers) {
		return
	}
	chain := digest.Digest("")
	for i, l := range m.Layers {
		chain = ChainID(chain, config.RootFS.DiffIDs[i])
		found[chain] = Packed{Encoding: EncodingBase, DiffID: config.RootFS.DiffIDs[i], Digest: l.Digest, Size: l.Size}
	}
}
