package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
)

// openCaches opens the step's cache mounts and fills new ones. Mounts with the same id are one mount; the first
// determines its sharing.
func (x *execStep) openCaches(ctx context.Context) error {
	var list []int
	ids := map[int]string{}
	for i, m := range x.exec.GetMounts() {
		if m.GetMountType() != pb.MountType_CACHE {
			continue
		}
		id, err := x.cacheID(ctx, m)
		if err != nil {
			return err
		}
		ids[i] = id
		list = append(list, i)
	}
	slices.SortStableFunc(list, func(a, b int) int { return strings.Compare(ids[a], ids[b]) })
	x.caches = map[int]*cache.Mount{}
	for k, i := range list {
		if k > 0 && ids[i] == ids[list[k-1]] {
			x.caches[i] = x.caches[list[k-1]]
			continue
		}
		opt := x.exec.GetMounts()[i]
		sharing := strings.ToLower(opt.GetCacheOpt().GetSharing().String())
		fresh := x.n.b.freshMounts(opt.GetCacheOpt().GetID())
		name, from := x.mountFor(ids[i], opt)
		m, err := x.n.b.store.CacheMount(ctx, name, sharing, fresh)
		if err != nil {
			return err
		}
		x.caches[i] = m
		if !m.New {
			continue
		}
		filled := false
		if from != nil {
			if filled, err = x.n.b.fillMount(ctx, ids[i], from, m); err != nil {
				return err
			}
		}
		if !filled {
			err = x.fillCache(ctx, opt, m.Dir)
		}
		if err == nil {
			err = m.Filled()
		}
		if err != nil {
			return fmt.Errorf("fill the cache mount %s: %w", opt.GetDest(), err)
		}
	}
	return nil
}

// fillCache fills a new cache mount with its seed.
func (x *execStep) fillCache(ctx context.Context, m *pb.Mount, dir string) error {
	in := x.n.input(int(m.GetInput()))
	if in.scratch() {
		return nil
	}
	seed, _ := x.seed(m)
	if err := x.n.b.copyTo(ctx, in, seed, dir); err != nil {
		return err
	}
	return x.likeSeed(ctx, in, seed.Src, dir)
}

// settingsDir is the directory that the frontend creates to pass the mode and owner of a cache mount.
const settingsDir = "/cache"

// seed returns the files that a new cache mount is filled with, and the path in the mount that the step gets. As in
// BuildKit, a mount holds its whole input, and source names a part of the mount: mounts that differ only in source
// share their files. A directory that only holds the mode and owner is the mount itself, and of a build context only
// the selected files exist.
func (x *execStep) seed(m *pb.Mount) (seed tree.Selection, source string) {
	source = path.Join("/", m.GetSelector())
	in := x.n.input(int(m.GetInput()))
	if !in.scratch() && (in.local() || source == settingsDir && createsSettings(in.node.step.Op)) {
		return keys.MountSelection(m), "/"
	}
	return keys.MountSelection(&pb.Mount{}), source
}

// createsSettings reports whether an op only creates settingsDir.
func createsSettings(op *pb.Op) bool {
	actions := op.GetFile().GetActions()
	if len(actions) != 1 {
		return false
	}
	mkdir := actions[0].GetMkdir()
	return mkdir.GetPath() == settingsDir && !mkdir.GetMakeParents()
}

// likeSeed gives the directory of a cache mount the mode and owner of the directory that fills it. The frontend also
// passes mode, uid and gid this way.
func (x *execStep) likeSeed(ctx context.Context, in input, seed, dir string) error {
	return in.read(ctx, func(files tree.FS) error {
		at, err := tree.Resolve(files, path.Join("/", seed), true)
		if err != nil {
			return err
		}
		e, err := files.Lookup(at)
		if err != nil || !e.IsDir() {
			return err
		}
		if err := os.Lchown(dir, int(e.UID), int(e.GID)); err != nil {
			return idmap.Explain(err, e.UID, e.GID)
		}
		return unix.Chmod(dir, e.Mode&0o7777)
	})
}

// forcedMounts returns the ids of the cache mounts of forced steps.
func (b *build) forcedMounts() map[string]bool {
	ids := map[string]bool{}
	for _, n := range b.nodes {
		if !n.forced() {
			continue
		}
		for _, m := range n.step.Op.GetExec().GetMounts() {
			if m.GetMountType() == pb.MountType_CACHE {
				ids[m.GetCacheOpt().GetID()] = true
			}
		}
	}
	return ids
}

// freshMounts returns what makes the cache mount with an id start empty in this run. It is nil if no forced step has
// the id. As in BuildKit, all steps of the run then share the new files, those that are not forced too.
func (b *build) freshMounts(id string) *cache.FreshMounts {
	if !b.renewed[id] {
		return nil
	}
	return &b.fresh
}

// cacheID returns the name of a cache mount's files. A mount with a seed has different files for each seed, as in
// BuildKit.
func (x *execStep) cacheID(ctx context.Context, m *pb.Mount) (string, error) {
	id := m.GetCacheOpt().GetID()
	in := x.n.input(int(m.GetInput()))
	if in.scratch() {
		return id, nil
	}
	sel, _ := x.seed(m)
	seed, err := in.selection(ctx, sel)
	return id + "@" + seed.String(), err
}

// cacheMount mounts a directory that outlives the step, or the part of it that source names.
func (s *execRoot) cacheMount(index int, m *pb.Mount) ([]sandbox.Mount, error) {
	_, source := s.x.seed(m)
	mount := sandbox.Mount{
		Dest: m.GetDest(), Kind: sandbox.Bind, Source: s.x.caches[index].Dir, Within: source, Readonly: m.GetReadonly(),
	}
	err := mount.Check()
	if errors.Is(err, os.ErrNotExist) {
		return nil, s.x.n.stepError(fmt.Errorf("mount %s: source=%s does not exist in the cache mount", m.GetDest(),
			m.GetSelector()), "create it in a step that mounts the whole cache, without source=")
	}
	return []sandbox.Mount{mount}, err
}
