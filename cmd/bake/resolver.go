package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/images"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// baseFreshFor is how long a tag that a registry named is taken to name the same image still.
const baseFreshFor = time.Hour

// resolver answers the planner's questions about bases: from the store while it knows, else from the registry.
type resolver struct {
	app    *app
	store  *cache.Store
	client *registry.Client
	pull   bool // ask the registry, however fresh the store's answer is
	now    func() time.Time
}

func newResolver(a *app, store *cache.Store, client *registry.Client, pull bool) *resolver {
	return &resolver{app: a, store: store, client: client, pull: pull, now: time.Now}
}

// ResolveImage finds the digest and config of a base for a platform. A pinned digest in the store is never asked for
// again, nor is an image that was built here; the tag of a base is asked for when the store's answer is older than baseFreshFor. When the registry does not answer, an
// older answer of the store serves, with a note.
func (r *resolver) ResolveImage(ctx context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	known, fresh, err := r.known(ref, p)
	if err != nil {
		return planner.ResolvedImage{}, err
	}
	if known != nil && (fresh || r.app.offline) {
		return *known, nil
	}
	resolved, err := r.ask(ctx, ref, p)
	var refused *registry.Error
	if known != nil && !r.pull && errors.As(err, &refused) && refused.Temporary() {
		r.app.note("base %s: %s does not answer; the copy in the store is used", shownName(ref), refused.Registry)
		return *known, nil
	}
	if _, pinned := images.SplitDigest(ref); pinned != "" && errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		gone := *refused
		gone.Hint = "what was pinned is gone there: bake update moves a pin of " + config.LockName + ", and bake pin --copy-to keeps a copy from the start"
		return resolved, &gone
	}
	return resolved, err
}

// known is the store's answer, nil when it has none, and whether it may be used without asking.
func (r *resolver) known(ref string, p ocispecs.Platform) (*planner.ResolvedImage, bool, error) {
	name, pinned := images.SplitDigest(ref)
	image, ok, err := r.store.Image(name)
	if err != nil {
		return nil, false, err
	}
	fresh := ok && !r.pull && (image.Kind == cache.KindBuilt || r.now().Sub(image.Recorded) < baseFreshFor)
	if pinned != "" {
		image, ok, fresh = cache.Image{Name: name, Digest: pinned}, r.store.HasBlob(pinned, -1), true
	}
	if !ok {
		return nil, false, nil
	}
	config, layers, err := storedConfig(r.store, image, p)
	if err != nil {
		return nil, false, nil // not all of it is here: the registry is asked
	}
	raw, err := images.ReadJSON(r.store, image.Digest)
	if err != nil {
		return nil, false, nil
	}
	return &planner.ResolvedImage{Ref: name, Digest: image.Digest, Config: config, Layers: layers, Platforms: platformsOf(raw, config)}, fresh, nil
}

// ask asks the registry and keeps the answer in the store.
func (r *resolver) ask(ctx context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	resolved, err := r.client.Resolve(ctx, ref, p)
	if err != nil {
		return planner.ResolvedImage{}, err
	}
	if err := r.keep(resolved); err != nil {
		return planner.ResolvedImage{}, fmt.Errorf("keep base %s: %w", ref, err)
	}
	return planner.ResolvedImage{
		Ref: resolved.Ref, Digest: resolved.Digest, Config: resolved.Config, Layers: len(resolved.Manifest.Layers),
		Platforms: platformsOf(resolved.Index, resolved.Config),
	}, nil
}

// platformsOf lists the platforms of an index; where the document is none, that of the image's config.
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

// keep records a base and what describes it. Its layers come when a step needs them.
func (r *resolver) keep(resolved registry.Resolved) error {
	for _, raw := range [][]byte{resolved.Config, resolved.Manifest.Raw, resolved.Index} {
		if raw == nil {
			continue
		}
		if _, err := r.store.PutBytes(raw); err != nil {
			return err
		}
	}
	name, pinned := images.SplitDigest(resolved.Ref)
	size := len(resolved.Manifest.Raw)
	if resolved.Index != nil {
		size = len(resolved.Index)
	}
	image := cache.Image{
		Name: name, Digest: resolved.Digest, MediaType: resolved.MediaType, Size: int64(size), Kind: cache.KindBase, Recorded: r.now().UTC(),
	}
	if pinned == "" {
		return r.store.PutImages([]cache.Image{image})
	}
	return r.keepPinned(image, pinned)
}

// keepPinned records a base that was asked for by digest. That says nothing of what its tag names, so the tag gets a record
// only where it has none, and one so old that the registry is asked before it is used for the tag alone.
func (r *resolver) keepPinned(image cache.Image, d digest.Digest) error {
	tagged := image
	image.Name += "@" + d.String()
	list := []cache.Image{image}
	_, known, err := r.store.Image(tagged.Name)
	if err != nil {
		return err
	}
	if !known && !images.IsNameOnly(tagged.Name) {
		tagged.Recorded = time.Unix(0, 0).UTC()
		list = append(list, tagged)
	}
	return r.store.PutImages(list)
}

// storedConfig reads the config of a base for a platform, with the manifest it belongs to.
func storedConfig(s *cache.Store, image cache.Image, p ocispecs.Platform) ([]byte, int, error) {
	manifest, err := images.Manifest(s, image, p)
	if err != nil {
		return nil, 0, err
	}
	raw, err := images.ReadJSON(s, digest.Digest(manifest.Config.Digest.String()))
	return raw, len(manifest.Layers), err
}

var _ planner.Resolver = (*resolver)(nil)
