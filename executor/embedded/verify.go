package embedded

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
)

// With --verify-cache no lookup hits: the cached entry is put aside, the step runs, and its result is compared and
// dropped. The step is then served from the cache, so that its users are found there too.

// putAside keeps the cached entry for the comparison and reports whether the step must run.
func (k *keyed) putAside(e *cache.Entry, from *source) bool {
	if !k.n.b.opts.Verify || k.n.b.dry || k.n.b.storedNow(e.Key) {
		return false
	}
	if k.hit == nil {
		k.hit, k.hitFrom = e, from
	}
	return true
}

// compareHit compares the new result with the cached one, drops the new one, and serves the step from the cache.
func (k *keyed) compareHit(ctx context.Context, outputs []cache.Output) error {
	n := k.n
	differ, err := n.b.outputsDiffer(ctx, k.hit.Outputs, outputs)
	for _, id := range layerIDs(outputs) {
		if !slices.Contains(layerIDs(k.hit.Outputs), id) {
			err = errors.Join(err, n.b.store.DropLayer(id))
		}
	}
	if err != nil {
		return fmt.Errorf("compare with the cache: %w", err)
	}
	n.result.Verified, n.result.Differs = true, differ
	n.result.Reason = "cached; run again to compare"
	return n.serve(k.hit, k.hitFrom)
}

// layerIDs returns the non-empty layers of outputs.
func layerIDs(outputs []cache.Output) []digest.Digest {
	var ids []digest.Digest
	for _, o := range outputs {
		for _, p := range o.Parts {
			if p.Layer != "" && p.Layer != emptyLayer {
				ids = append(ids, p.Layer)
			}
		}
	}
	return ids
}

// outputsDiffer lists the paths that differ between two results of a step, sorted.
func (b *build) outputsDiffer(ctx context.Context, had, got []cache.Output) ([]string, error) {
	sums := [2]map[string]string{{}, {}}
	for i, outputs := range [2][]cache.Output{had, got} {
		for k, o := range outputs {
			for _, p := range o.Parts {
				if p.Layer == "" {
					continue
				}
				prefix := ""
				if k > 0 {
					prefix = fmt.Sprintf("output %d: ", k)
				}
				if err := b.sumLayer(ctx, p.Layer, prefix, sums[i]); err != nil {
					return nil, err
				}
			}
		}
	}
	var differ []string
	for path := range sums[0] {
		if sums[0][path] != sums[1][path] {
			differ = append(differ, path)
		}
	}
	for path := range sums[1] {
		if _, ok := sums[0][path]; !ok {
			differ = append(differ, path)
		}
	}
	slices.Sort(differ)
	return differ, nil
}

// sumLayer adds a digest of each file of a layer as an image would have it, except for times.
func (b *build) sumLayer(ctx context.Context, id digest.Digest, prefix string, sums map[string]string) error {
	dir, err := b.ownDir(ctx, id)
	if err != nil || dir == "" {
		return err
	}
	r, w := io.Pipe()
	go func() {
		_, err := layers.Pack(ctx, dir, w, layers.PackOptions{Epoch: time.Unix(1, 0)})
		w.CloseWithError(err)
	}()
	defer r.Close()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		sum := sha256.New()
		fmt.Fprintf(sum, "%q %q %o %d %d %d %d\n", h.Typeflag, h.Linkname, h.Mode, h.Uid, h.Gid, h.Devmajor, h.Devminor)
		for _, name := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			fmt.Fprintf(sum, "%q %q\n", name, h.PAXRecords[name])
		}
		if _, err := io.Copy(sum, t); err != nil {
			return err
		}
		sums[prefix+"/"+h.Name] = string(sum.Sum(nil))
	}
}
