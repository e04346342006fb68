// Package resolve implements planner.Resolver with the local store and the registries. The store answers while its
// answer is fresh; otherwise the registry is asked, and its answer is stored.
//
// Several commands share it, so that all have one rule about which answers may be reused. It imports planner and the
// packages of the store and the registry; it knows neither commands nor lock files.
package resolve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/images"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// freshFor is how long the store's answer for a tag is used without asking the registry.
const freshFor = time.Hour

// Resolver resolves image references. Use New.
type Resolver struct {
	store  *cache.Store
	client *registry.Client
	opts   Options
	now    func() time.Time

	mu    sync.Mutex
	noted map[string]bool // names of images of other projects that were used
}

// Options are the choices of the caller. The zero value asks registries for tags that are not fresh.
type Options struct {
	Pull    bool // ask the registry even if the store's answer is fresh
	Offline bool // use the store's answer, however old
	// Origin is the project whose bases are resolved. Frozen uses no image that another project named.
	Origin cache.Origin
	Frozen bool
	// Note shows a message to the user. It must not be nil.
	Note func(format string, args ...any)
}

// New returns a resolver that uses a store and a client. The caller closes them.
func New(store *cache.Store, client *registry.Client, o Options) *Resolver {
	return &Resolver{store: store, client: client, opts: o, now: time.Now, noted: map[string]bool{}}
}

var _ planner.Resolver = (*Resolver)(nil)

// ResolveImage returns the digest and config of an image for a platform.
//
// The registry is not queried for a digest that the store has, an image that was built here, or a tag whose answer is
// younger than freshFor. If the registry is temporarily unavailable, an older answer is used, with a note.
func (r *Resolver) ResolveImage(ctx context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	known, fresh, err := r.Stored(ref, p)
	if err != nil {
		return planner.ResolvedImage{}, err
	}
	if known != nil && (fresh || r.opts.Offline) {
		r.noteForeign(ref)
		return *known, nil
	}
	r.noteUnused(ref)
	resolved, err := r.ask(ctx, ref, p)
	var refused *registry.Error
	if !errors.As(err, &refused) {
		return resolved, err
	}
	if known != nil && !r.opts.Pull && refused.Temporary() {
		r.opts.Note("base %s: %s does not respond; using the copy in the cache", planner.FamiliarName(ref),
			refused.Registry)
		r.noteForeign(ref)
		return *known, nil
	}
	if _, pinned := images.SplitDigest(ref); pinned != "" && refused.NotFound() {
		gone := *refused
		gone.Hint = "the pinned image no longer exists there; bake pin --copy-to keeps copies; to move the pin: bake " +
			"update"
		return resolved, &gone
	}
	return resolved, err
}

// Stored returns the store's answer, nil if it has none, and reports whether the answer is fresh.
func (r *Resolver) Stored(ref string, p ocispecs.Platform) (*planner.ResolvedImage, bool, error) {
	name, pinned := images.SplitDigest(ref)
	image, ok, err := r.store.Image(name)
	if err != nil {
		return nil, false, err
	}
	ok = ok && r.mayServe(image)
	fresh := ok && !r.opts.Pull && (image.Kind == cache.KindBuilt || r.now().Sub(image.Recorded) < freshFor)
	if pinned != "" {
		image, ok, fresh = cache.Image{Name: name, Digest: pinned}, r.store.HasBlob(pinned, -1), true
	}
	if !ok {
		return nil, false, nil
	}
	config, layers, err := storedConfig(r.store, image, p)
	if err != nil {
		return nil, false, nil // the store has only a part of it, so the registry is asked
	}
	raw, err := images.ReadJSON(r.store, image.Digest)
	if err != nil {
		return nil, false, nil
	}
	return &planner.ResolvedImage{
		Ref: name, Digest: image.Digest, Config: config, Layers: layers, Platforms: platformsOf(raw, config),
	}, fresh, nil
}

// ask asks the registry and stores its answer.
func (r *Resolver) ask(ctx context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	resolved, err := r.client.Resolve(ctx, ref, p)
	if err != nil {
		return planner.ResolvedImage{}, err
	}
	if err := r.Keep(resolved); err != nil {
		return planner.ResolvedImage{}, fmt.Errorf("store base %s: %w", ref, err)
	}
	return planner.ResolvedImage{
		Ref: resolved.Ref, Digest: resolved.Digest, Config: resolved.Config, Layers: len(resolved.Manifest.Layers),
		Platforms: platformsOf(resolved.Index, resolved.Config),
	}, nil
}

// platformsOf lists the platforms of an index, or the platform of an image's config if document is not an index.
func platformsOf(document, config []byte) []string {
	var index ocispecs.Index
	var list []string
	if json.Unmarshal(document, &index) == nil {
		for _, m := range index.Manifests {
			if m.Platform != nil && m.Platform.OS != "unknown" {
				list = append(list, platforms.Format(*m.Platform))
			}
		}
	}
	var image ocispecs.Image
	if list == nil && json.Unmarshal(config, &image) == nil && image.OS != "" {
		list = append(list, platforms.Format(image.Platform))
	}
	return list
}

// storedConfig reads the config of an image for a platform, and returns the number of layers in its manifest.
func storedConfig(s *cache.Store, image cache.Image, p ocispecs.Platform) ([]byte, int, error) {
	manifest, err := images.Manifest(s, image, p)
	if err != nil {
		return nil, 0, err
	}
	raw, err := images.ReadJSON(s, digest.Digest(manifest.Config.Digest.String()))
	return raw, len(manifest.Layers), err
}
