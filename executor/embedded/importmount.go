package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/keys"
)

// Cache mounts from elsewhere. What a cache mount holds is in no key. So one that a remote cache fills has a name of
// its own, with the origin of that cache, and only builds that name the cache use it; a mount of this machine comes
// first. A step that ran with such a mount is stored under a key with one more part, the origins. Otherwise files that
// another author chose would decide about a result that serves all builds. TestClaimedMount shows it.
//
// A mount can also be filled from a stage (from=). Its id has the digest of the stage's files, which says nothing about
// their times. So if the stage depends on remote caches, their origins are in the name of the mount too. The key of the
// step has them anyway, see withOrigins. TestClaimedTimes shows it.
//
// A step can write to any cache mount, also one that runs on layers of a remote cache. Cache mounts do not separate
// builds of one user from each other.

// partClaimedMounts names the part of a key that holds the origins of cache mounts.
const partClaimedMounts = "cache mounts filled from"

// filledName returns the name of a cache mount that remote caches fill; id if there are none.
func filledName(id string, by taint) string {
	if len(by) == 0 {
		return id
	}
	return id + "\x00filled from " + strings.Join(by, "\n")
}

// mountSource says who decides what a cache mount holds.
type mountSource struct {
	from *source // the remote cache that has the mount, nil if there is none
	by   taint   // all remote caches on which its first files depend; none for a mount of this machine
}

// mountHere returns the source of a cache mount that was filled before; found is false if it is not known yet. seed are
// the remote caches on which the files depend that would fill it.
func (b *build) mountHere(id string, seed taint) (of mountSource, found bool) {
	if v, ok := b.mounts.Load(filledName(id, seed)); ok {
		return v.(mountSource), true
	}
	if b.imports.none() || b.store.HasMount(id) {
		return mountSource{}, true
	}
	for _, s := range b.imports.sources {
		if by := seed.and(taint{s.origin.ID()}); b.store.HasMount(filledName(id, by)) {
			return mountSource{s, by}, true
		}
	}
	return mountSource{by: seed}, len(seed) > 0 && b.store.HasMount(filledName(id, seed))
}

// chooseMount returns the source of the cache mount for an id. All steps of a run get the same one.
func (b *build) chooseMount(id string, seed taint) mountSource {
	of, found := b.mountHere(id, seed)
	if !found {
		if l, ok := b.imports.mount(id); ok {
			of = mountSource{l.from, seed.and(taint{l.from.origin.ID()})}
		}
	}
	v, _ := b.mounts.LoadOrStore(filledName(id, seed), of)
	return v.(mountSource)
}

// mountFor returns the name of the step's cache mount for an id, and the remote cache that fills it. A mount that must
// start empty is never one of a remote cache, but its seed may be.
func (x *execStep) mountFor(id string, m *pb.Mount) (name string, from *source) {
	if x.n.b.freshMounts(m.GetCacheOpt().GetID()) != nil {
		return filledName(id, x.seedTaint(m)), nil
	}
	of := x.n.b.chooseMount(id, x.seedTaint(m))
	if of.from != nil {
		x.mountsFrom = append(x.mountsFrom, of.from.origin.ID())
	}
	return filledName(id, of.by), of.from
}

// seedTaint returns the remote caches on which the files depend that fill a new cache mount.
func (x *execStep) seedTaint(m *pb.Mount) taint {
	if in := x.n.input(int(m.GetInput())); !in.scratch() {
		return in.node.by
	}
	return nil
}

// filledHere returns the origins of cache mounts of the step that remote caches filled before. A mount whose id depends
// on files is left out: then the step is found by its final key.
func (x *execStep) filledHere() []string {
	var all []string
	for _, m := range x.exec.GetMounts() {
		if m.GetMountType() != pb.MountType_CACHE || !x.n.input(int(m.GetInput())).scratch() {
			continue
		}
		if of, _ := x.n.b.mountHere(m.GetCacheOpt().GetID(), nil); of.from != nil {
			all = append(all, of.from.origin.ID())
		}
	}
	return all
}

// withMounts adds the origins of cache mounts to a key.
func withMounts(p keys.Parts, from []string) keys.Parts {
	from = slices.Compact(slices.Sorted(slices.Values(from)))
	return p.With(keys.Parts{key.Part{Name: partClaimedMounts, Digest: strings.Join(from, "\n")}})
}

// findFilled serves the step from a result of this machine with the cache mounts that remote caches filled.
func (k *keyed) findFilled(quick keys.Parts) (bool, error) {
	if k.filledMounts == nil || k.n.b.imports.none() {
		return false, nil
	}
	from := k.filledMounts()
	if len(from) == 0 {
		return false, nil
	}
	return k.findOwn(withMounts(quick, from))
}

// findOwn is find without remote caches.
func (k *keyed) findOwn(p keys.Parts) (bool, error) {
	if of := p.Key(); k.n.forced() && !k.n.b.storedNow(of) {
		return false, nil
	}
	e, err := k.n.b.store.Lookup(p.Key())
	if err != nil || e == nil || k.n.fits(e) != nil || k.putAside(e, nil) {
		return false, err
	}
	return true, k.n.serve(e, nil)
}

// useFilled looks for the step with the cache mounts that it would use, if a remote cache fills one, and sets the keys
// under which its result is stored.
func (x *execStep) useFilled(ctx context.Context) (bool, error) {
	if len(x.mountsFrom) == 0 {
		return false, nil
	}
	quick, err := x.quick(ctx, input.id)
	if err != nil {
		return false, err
	}
	x.quickKey, x.final = withMounts(quick, x.mountsFrom).Key(), withMounts(x.final, x.mountsFrom)
	if err := x.setFinal(ctx); err != nil {
		return false, err
	}
	found, err := x.findOwn(x.final)
	if err != nil || !found {
		return false, err
	}
	return true, x.alias(x.n.entry)
}

// fillMount fills a new cache mount from the remote cache that its name has. If that fails, the mount starts empty.
func (b *build) fillMount(ctx context.Context, id string, from *source, m *cache.Mount) (filled bool, err error) {
	b.imports.load()
	l, ok := from.mount(id)
	if !ok {
		return false, nil
	}
	_, err = b.unpackInto(ctx, l, m.Dir)
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	}
	b.imports.warn(fmt.Sprintf("the cache mount %s of the cache %s starts empty: %v", id, l.from, err))
	return false, clearDir(m.Dir)
}

// clearDir empties a directory that only this process uses.
func clearDir(dir string) error {
	names, err := os.ReadDir(dir)
	for _, n := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, n.Name())))
	}
	return errors.Join(err, os.Chmod(dir, 0o755))
}
