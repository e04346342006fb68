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

// Resolver finds out what an image reference stands for. It is called from several goroutines, once for each reference
// and platform of a plan.
type Resolver interface {
	// ResolveImage resolves a normalised reference with a tag or digest, such as docker.io/library/alpine:3.20.
	ResolveImage(ctx context.Context, ref string, p ocispecs.Platform) (ResolvedImage, error)
}

// ResolvedImage is what a reference stands for.
type ResolvedImage struct {
	Ref       string        // normalised; "" means as asked
	Digest    digest.Digest // of the index where the reference names one
	Config    []byte        // the image config for the platform asked for
	Layers    int           // layers in the manifest, or 0 when not known
	Platforms []string      // those of the index, or the manifest's one; nil when not known
}

// BaseUse is an image that targets of the plan stand on or copy from.
type BaseUse struct {
	Ref     string        // normalised, without a digest unless the Dockerfile has one
	Digest  digest.Digest // what the plan took it for
	Locked  bool          // by the lock
	From    string        // the repository that it is pulled from, where the lock names another than the reference's
	Targets []string      // that use it, sorted
	Places  []Location    // the lines of Dockerfiles that say so, sorted
	// Platforms are those that it has, sorted; nil when not known.
	Platforms []string
	// Taken are the platforms of it that the targets take, sorted, as its configs name them.
	Taken []string
	// Created is the time in its config, the latest of the platforms asked for; zero when it says none.
	Created time.Time
}

// LockError says that the lock does not say what a plan must know.
type LockError struct{ What string }

// Error is what is missing and what to do.
func (e *LockError) Error() string { return e.What }

// bases resolves each reference once, and knows what is used of images and other sources.
type bases struct {
	lock     *config.Lock // nil: none
	frozen   bool         // what the lock lacks is an error
	used     map[string]*BaseUse
	sources  map[string]*SourceUse
	ctx      context.Context // of the plan: one target that gives up must not end what others wait for
	stop     context.CancelFunc
	asked    sync.WaitGroup // questions that are not answered yet
	resolver Resolver
	mu       sync.Mutex
	calls    map[string]*baseCall
}

type baseCall struct {
	ref      string
	platform ocispecs.Platform
	done     chan struct{}
	image    ResolvedImage
	err      error
}

func (b *bases) resolve(ctx context.Context, ref string, p ocispecs.Platform) (ResolvedImage, error) {
	if b.resolver == nil {
		return ResolvedImage{}, errors.New("nothing here can look up images")
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
		b.asked.Go(func() {
			defer close(call.done)
			call.image, call.err = b.ask(ref, p)
		})
	}
	select {
	case <-call.done:
		return call.image, call.err
	case <-ctx.Done():
		// Not its cause: that is another stage's error, to which the front end adds places meanwhile.
		return ResolvedImage{}, ctx.Err()
	}
}

// end gives up what nobody waits for any more, as after another target's error, and returns when the resolver is not in use.
func (b *bases) end() {
	b.stop()
	b.asked.Wait()
}

func (b *bases) ask(ref string, p ocispecs.Platform) (image ResolvedImage, err error) {
	defer recoverTo(&err)
	wanted, err := b.pinned(ref)
	if err != nil {
		return image, err
	}
	image, err = b.resolver.ResolveImage(b.ctx, wanted, p)
	if err != nil {
		return image, err
	}
	if image.Ref == "" || b.from(ref) != "" {
		image.Ref = ref
	}
	return image, checkBase(image)
}

// pinned is a reference with the digest that the lock has for it, of the repository where the lock says that it is kept. One
// that has a digest needs no entry; one that says another thing is an error.
func (b *bases) pinned(ref string) (string, error) {
	if b.lock == nil {
		return ref, nil
	}
	if name, written, ok := strings.Cut(ref, "@"); ok {
		if d := b.lock.Images[name].Digest; d != "" && d.String() != written {
			return "", &LockError{fmt.Sprintf("it is written with the digest %s, and %s has %s for %s: take the digest away here, or the block there",
				written, config.LockName, d, name)}
		}
		return ref, nil
	}
	if pin, ok := b.lock.Images[ref]; ok {
		return cmp.Or(pin.From, ref) + "@" + pin.Digest.String(), nil
	}
	return ref, b.missing(ref)
}

// missing refuses what the lock lacks, where it must be whole.
func (b *bases) missing(key string) error {
	if b.lock == nil || !b.frozen {
		return nil
	}
	return &LockError{fmt.Sprintf("%s has no entry for %s, and a frozen plan asks for nothing: run bake pin and commit the lock", config.LockName, key)}
}

// from is the repository where the lock says that an image is kept; "" is its own.
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
	_ = json.Unmarshal(image.Config, &c) // a time that cannot be read is none
	b.mu.Lock()
	defer b.mu.Unlock()
	base, ok := b.used[ref]
	if !ok {
		base = &BaseUse{Ref: ref, Digest: image.Digest, From: b.from(ref), Platforms: slices.Sorted(slices.Values(image.Platforms))}
		if b.lock != nil {
			_, base.Locked = b.lock.Images[ref]
		}
		b.used[ref] = base
	}
	base.Targets = addSorted(base.Targets, target)
	if c.OS != "" && c.Architecture != "" {
		base.Taken = addSorted(base.Taken, platforms.Format(platforms.Normalize(c.Platform)))
	}
	if c.Created.After(base.Created) && c.Created.Unix() > 0 {
		base.Created = c.Created.UTC()
	}
}

// restore records a use that an earlier plan recorded; what the lock says of it is as of now.
func (b *bases) restore(ref string, use BaseUse) {
	use.Locked, use.From = false, b.from(ref)
	if b.lock != nil {
		_, use.Locked = b.lock.Images[ref]
	}
	b.used[ref] = &use
}

// addSorted adds to a sorted list what it lacks.
func addSorted(list []string, s string) []string {
	i, ok := slices.BinarySearch(list, s)
	if ok {
		return list
	}
	return slices.Insert(list, i, s)
}

// list is what was used, by reference.
func (b *bases) list() []BaseUse {
	var list []BaseUse
	for _, ref := range slices.Sorted(maps.Keys(b.used)) {
		list = append(list, *b.used[ref])
	}
	return list
}

// checkBase refuses a config that the front end would silently take for scratch, or that would make it run out of
// memory.
func checkBase(image ResolvedImage) error {
	var c baseConfig
	if err := json.Unmarshal(image.Config, &c); err != nil {
		return fmt.Errorf("its config is not the JSON of an image: %w", err)
	}
	if c.RootFS == nil || (c.RootFS.Type != "layers" && len(c.RootFS.DiffIDs) == 0) {
		return errors.New("its config lists no layers (rootfs.diff_ids): it is not an image to build on")
	}
	if image.Layers > 0 && image.Layers != len(c.RootFS.DiffIDs) {
		return fmt.Errorf("its config lists %d layers (rootfs.diff_ids) and its manifest %d", len(c.RootFS.DiffIDs), image.Layers)
	}
	return c.checkSize()
}

// baseConfig is what a plan must know of an image config before the front end reads it.
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

// checkSize refuses an environment that checkBounds did not reckon with.
func (c baseConfig) checkSize() error {
	size := 0
	for _, s := range c.Config.Env {
		if len(s) > maxBaseValue {
			key, _, _ := strings.Cut(s, "=")
			return fmt.Errorf("its variable %.40s has %d bytes; at most %d are allowed in a base", key, len(s), maxBaseValue)
		}
		size += len(s)
	}
	for _, s := range c.Config.OnBuild {
		size += len(s)
	}
	if len(c.Config.OnBuild) > 100 || size > maxValue {
		return fmt.Errorf("its environment and its %d ONBUILD instructions have %d bytes; at most 100 and %d are allowed",
			len(c.Config.OnBuild), size, maxValue)
	}
	triggers := "FROM base\n" + strings.Join(c.Config.OnBuild, "\n")
	if err := newBounds(nil, maxBaseValue).check([]byte(triggers)); err != nil {
		return fmt.Errorf("its ONBUILD instructions: %w", err)
	}
	return nil
}
