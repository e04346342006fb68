package affected

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/planner"
)

// bases resolves base images without a registry, so that a fresh machine of a CI service can compare revisions.
type bases struct {
	known func(ref string, p ocispecs.Platform) (planner.ResolvedImage, bool, error)

	mu      sync.Mutex
	unknown map[string]bool // references without a digest here
}

var _ planner.Resolver = (*bases)(nil)

// ResolveImage implements planner.Resolver. It describes an unknown image as one with a single layer. Which targets a
// change affects does not depend on the content of a base, as long as both revisions name the same one.
func (b *bases) ResolveImage(_ context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	image, known, err := b.known(ref, p)
	if err != nil || known {
		return image, err
	}
	if image.Digest == "" {
		image.Digest = digest.FromString("unknown")
		b.mu.Lock()
		b.unknown[ref] = true
		b.mu.Unlock()
	}
	// The frontend treats an image without layers as scratch, whatever its name and digest are. So there is one layer.
	const config = `{"os":%q,"architecture":%q,"rootfs":{"type":"layers","diff_ids":[%q]}}`
	image.Config = fmt.Appendf(nil, config, p.OS, p.Architecture, image.Digest)
	return image, nil
}

// unknownRefs returns the references without a digest, sorted.
func (b *bases) unknownRefs() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, slices.Sorted(maps.Keys(b.unknown))...)
}
