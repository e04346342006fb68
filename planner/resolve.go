package planner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// Resolver resolves image references. It is called from several goroutines, once for each reference and platform of a
// plan.
type Resolver interface {
	// ResolveImage resolves a normalized reference with a tag or digest, such as docker.io/library/alpine:3.20.
	ResolveImage(ctx context.Context, ref string, p ocispecs.Platform) (ResolvedImage, error)
}

// ResolvedImage is the result of resolving a reference.
type ResolvedImage struct {
	Ref       string        // normalized; "" means the requested reference
	Digest    digest.Digest // of the index if the reference is an index
	Config    []byte        // the image config for the requested platform
	Layers    int           // number of layers in the manifest; 0 if unknown
	Platforms []string      // platforms of the index, or of the single manifest; nil if unknown
}

// BaseUse is an image that targets of the plan are built on or copy from.
type BaseUse struct {
	Ref     string        // normalized, without a digest unless the Dockerfile has one
	Digest  digest.Digest // that the plan uses
	Locked  bool          // pinned by the lock
	From    string        // the repository to pull from, if the lock names one other than the reference's
	Targets []string      // that use it, sorted
	Places  []Location    // the lines of Dockerfiles that name it, sorted
	// Platforms lists the platforms of the image, sorted; nil if unknown.
	Platforms []string
	// UsedPlatforms lists the platforms that the targets use, sorted, as in the image's configs.
	UsedPlatforms []string
	// Created is the latest creation time in the configs of the used platforms; zero if they have none.
	Created time.Time
}

// LockError reports that the lock lacks an entry that the plan needs, or contradicts the project.
type LockError struct{ What string }

// Error returns the reason and what to do.
func (e *LockError) Error() string { return e.What }

// bases resolves references and applies the lock. It records the use of images and of other sources.
//
// Targets are planned concurrently and often share a base. If each of them resolved it, they would send the same
// request many times, and could see different digests if a tag moves in between. So bases sends one request per
// reference and platform, and all targets wait for the same answer. Requests therefore use the context of the plan: a
// target that fails must not cancel a request that others wait for. end cancels what is left. The lock is applied here,
// before the resolver is called: the frontend never sees a tag without its pin, and a frozen plan never requests a
// tag. TestLockIsApplied shows the pins, TestMonorepoMerges the single request, TestPlanLeavesNothing the end.
type bases struct {
	lock     *config.Lock // nil pins nothing
	frozen   bool         // an entry missing in the lock is an error
	used     map[string]*BaseUse
	sources  map[string]*SourceUse
	ctx      context.Context // of the plan, not of one target
	stop     context.CancelFunc
	pending  sync.WaitGroup // requests to the resolver
	resolver Resolver
	mu       sync.Mutex
	calls    map[string]*baseCall
}

// baseCall is one request to the resolver. image and err are set when done is closed.
type baseCall struct {
	ref      string
	platform ocispecs.Platform
	done     chan struct{}
	image    ResolvedImage
	err      error
}

// resolve returns the image of a reference for a platform. ctx ends the waiting but not the request.
func (b *bases) resolve(ctx context.Context, ref string, p ocispecs.Platform) (ResolvedImage, error) {
	if b.resolver == nil {
		return ResolvedImage{}, errors.New("image references cannot be resolved here")
	}
	key := ref + " " + platforms.FormatAll(p)
	b.mu.Lock()
	call, ok := b.calls[key]
	if !ok {
		call = &baseCall{ref: ref, platform: p, done: make(chan struct{})}
		b.calls[key] = call
	}
	b.mu.Unlock()
	if !ok {
		b.pending.Go(func() {
			defer close(call.done)
			call.image, call.err = b.request(ref, p)
		})
	}
	select {
	case <-call.done:
		return call.image, call.err
	case <-ctx.Done():
		// Not context.Cause: that is the error of another stage, which the frontend is adding locations to.
		return ResolvedImage{}, ctx.Err()
	}
}

// end cancels the remaining requests and waits until the resolver is no longer in use.
func (b *bases) end() {
	b.stop()
	b.pending.Wait()
}

// request sends one request to the resolver.
func (b *bases) request(ref string, p ocispecs.Platform) (image ResolvedImage, err error) {
	defer recoverTo(&err)
	pinned, err := b.pinned(ref)
	if err != nil {
		return image, err
	}
	image, err = b.resolver.ResolveImage(b.ctx, pinned, p)
	if err != nil {
		return image, err
	}
	if image.Ref == "" || b.from(ref) != "" {
		image.Ref = ref
	}
	return image, checkBase(image)
}

// pinned returns a reference with the digest from the lock, in the repository that the lock names. A reference with a
// digest needs no entry. If the lock has a different digest for it, that is an error.
func (b *bases) pinned(ref string) (string, error) {
	if b.lock == nil {
		return ref, nil
	}
	if name, written, ok := strings.Cut(ref, "@"); ok {
		if d := b.lock.Images[name].Digest; d != "" && d.String() != written {
			return "", &LockError{fmt.Sprintf("digest %s differs from %s in %s for %s; remove the digest here or the "+
				"entry in %s",
				written, d, config.LockName, name, config.LockName)}
		}
		return ref, nil
	}
	if pin, ok := b.lock.Images[ref]; ok {
		return cmp.Or(pin.From, ref) + "@" + pin.Digest.String(), nil
	}
	return ref, b.missing(ref)
}

// missing returns an error for an entry missing in the lock if the plan is frozen.
func (b *bases) missing(key string) error {
	if b.lock == nil || !b.frozen {
		return nil
	}
	return &LockError{fmt.Sprintf("%s has no entry for %s, which a frozen build requires; run bake pin and commit %s",
		config.LockName, key, config.LockName)}
}

// from returns the repository from which the lock pulls an image; "" is the image's own.
func (b *bases) from(ref string) string {
	if b.lock == nil {
		return ""
	}
	return b.lock.Images[ref].From
}

// use records that a target uses a base.
func (b *bases) use(target, ref string, image ResolvedImage) {
	var c struct {
		Created time.Time `json:"created"`
		ocispecs.Platform
	}
	_ = json.Unmarshal(image.Config, &c) // an invalid time counts as missing
	b.mu.Lock()
	defer b.mu.Unlock()
	base, ok := b.used[ref]
	if !ok {
		base = &BaseUse{
			Ref: ref, Digest: image.Digest, From: b.from(ref), Platforms: slices.Sorted(slices.Values(image.Platforms)),
		}
		if b.lock != nil {
			_, base.Locked = b.lock.Images[ref]
		}
		b.used[ref] = base
	}
	base.Targets = addSorted(base.Targets, target)
	if c.OS != "" && c.Architecture != "" {
		base.UsedPlatforms = addSorted(base.UsedPlatforms, platforms.Format(platforms.Normalize(c.Platform)))
	}
	if c.Created.After(base.Created) && c.Created.Unix() > 0 {
		base.Created = c.Created.UTC()
	}
}

// restore records a use from a stored plan, updated with the current lock.
func (b *bases) restore(ref string, use BaseUse) {
	use.Locked, use.From = false, b.from(ref)
	if b.lock != nil {
		_, use.Locked = b.lock.Images[ref]
	}
	b.used[ref] = &use
}

// addSorted inserts a string into a sorted list unless it is present.
func addSorted(list []string, s string) []string {
	i, ok := slices.BinarySearch(list, s)
	if ok {
		return list
	}
	return slices.Insert(list, i, s)
}

// list returns the used bases, sorted by reference.
func (b *bases) list() []BaseUse {
	var list []BaseUse
	for _, ref := range slices.Sorted(maps.Keys(b.used)) {
		list = append(list, *b.used[ref])
	}
	return list
}

// checkBase returns an error for a config that the frontend would silently treat as scratch, or that would make it run
// out of memory.
func checkBase(image ResolvedImage) error {
	var c baseConfig
	if err := json.Unmarshal(image.Config, &c); err != nil {
		return fmt.Errorf("invalid image config: %w", err)
	}
	if c.RootFS == nil || (c.RootFS.Type != "layers" && len(c.RootFS.DiffIDs) == 0) {
		return errors.New("not a container image: its config lists no layers (rootfs.diff_ids)")
	}
	if image.Layers > 0 && image.Layers != len(c.RootFS.DiffIDs) {
		return fmt.Errorf("invalid image: its config lists %d layers (rootfs.diff_ids), but its manifest has %d",
			len(c.RootFS.DiffIDs), image.Layers)
	}
	return c.checkSize()
}

// baseConfig holds the fields of an image config that a plan checks before the frontend reads it.
type baseConfig struct {
	RootFS *struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	Config struct {
		Env     []string
		OnBuild []string
	} `json:"config"`
}

// checkSize returns an error for an environment or ONBUILD instructions larger than checkBounds assumes.
func (c baseConfig) checkSize() error {
	size := 0
	for _, s := range c.Config.Env {
		if len(s) > maxBaseValue {
			key, _, _ := strings.Cut(s, "=")
			return fmt.Errorf("variable %.40s has %d bytes; the limit for a base is %d", key, len(s), maxBaseValue)
		}
		size += len(s)
	}
	for _, s := range c.Config.OnBuild {
		size += len(s)
	}
	if len(c.Config.OnBuild) > 100 || size > maxValue {
		return fmt.Errorf("the environment and %d ONBUILD instructions have %d bytes; "+
			"the limits for a base are 100 ONBUILD instructions and %d bytes", len(c.Config.OnBuild), size, maxValue)
	}
	triggers := "FROM base\n" + strings.Join(c.Config.OnBuild, "\n")
	if err := newBounds(nil, maxBaseValue).check([]byte(triggers)); err != nil {
		return fmt.Errorf("ONBUILD instructions: %w", err)
	}
	return nil
}
