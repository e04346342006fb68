package embedded

import (
	"os"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/tree"
)

// encodingIndex is the encoding under which the path index of a base layer is recorded. It is a blob, so the cache
// counts and evicts it like others. Under "index" an earlier version could record what a remote cache said.
const encodingIndex = "index 2"

// maxIndexBlob bounds the index of one layer, in bytes.
const maxIndexBlob = 1 << 30

// saveIndex stores the path index of a layer.
func saveIndex(store *cache.Store, diffID digest.Digest, x *tree.Index) error {
	raw, err := x.MarshalBinary()
	if err != nil {
		return err
	}
	d, err := store.PutBytes(raw)
	if err != nil {
		return err
	}
	return store.AddPacked(diffID, cache.Packed{
		Encoding: encodingIndex, DiffID: diffID, Digest: d, Size: int64(len(raw)),
	})
}

// loadIndex returns the stored path index of a layer; nil if it is missing or damaged.
func loadIndex(store *cache.Store, diffID digest.Digest) *tree.Index {
	meta, ok := store.LayerMeta(diffID)
	if !ok {
		return nil
	}
	for _, p := range meta.Packed {
		if p.Encoding != encodingIndex || p.Size > maxIndexBlob || !store.HasBlob(p.Digest, p.Size) {
			continue
		}
		raw, err := os.ReadFile(store.BlobPath(p.Digest))
		if err != nil || digest.FromBytes(raw) != p.Digest {
			return nil
		}
		x := new(tree.Index)
		if x.UnmarshalBinary(raw) != nil {
			return nil
		}
		return x
	}
	return nil
}
