package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Use lists what a target depended on in its last build.
type Use struct {
	Target string
	Layers []digest.Digest // produced by its steps
	Bases  []digest.Digest // manifests or indexes of base images
	Mounts []string        // IDs of cache mounts
}

// projectUses is the file of one project. A first line in front of it holds the hash of the last recorded uses, and the
// size of the rest.
type projectUses struct {
	Project string   // its directory
	Last    []string // targets of the last build
	Targets map[string]targetUse
}

type targetUse struct {
	Use
	Built time.Time // for targets in Last, the modification time of the file replaces it
}

// maxUses bounds the file, in bytes.
const maxUses = 64 << 20

// RecordUses records what the targets of a project depend on. `cache du` reports it by target. Building a target
// counts as a use of everything it depends on, even of items that the build did not touch. The caller passes uses in a
// fixed order: if nothing changed, only the time of the file is updated.
func (s *Store) RecordUses(project string, uses []Use) error {
	path := s.usesPath(project)
	h := fnv.New64a()
	for _, u := range uses {
		fmt.Fprintln(h, u)
	}
	hash := fmt.Sprintf("%016x", h.Sum64())
	if sameUses(path, hash) {
		now := time.Now()
		return wrap("note a use in", path, os.Chtimes(path, now, now))
	}
	p, built, ok := readUses(path)
	if !ok {
		p = projectUses{Project: project, Targets: map[string]targetUse{}}
	}
	for _, name := range p.Last {
		t := p.Targets[name]
		t.Built = built
		p.Targets[name] = t
	}
	p.Last = nil
	for _, u := range uses {
		p.Last = append(p.Last, u.Target)
		p.Targets[u.Target] = targetUse{u, time.Now().UTC()}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	head := fmt.Appendf(nil, "%s %d\n", hash, len(raw))
	return wrap("record uses in", path, s.writeFile(path, append(head, raw...)))
}

// sameUses reports whether the file holds the uses with a hash, and is as long as it says. It reads the first line
// only.
func sameUses(path, hash string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	var had string
	var rest, head int64
	start := make([]byte, 64)
	n, _ := f.ReadAt(start, 0)
	if _, err := fmt.Sscanf(string(start[:n]), "%s %d\n", &had, &rest); err != nil {
		return false
	}
	head = int64(bytes.IndexByte(start[:n], '\n') + 1)
	info, err := f.Stat()
	return err == nil && had == hash && info.Mode().IsRegular() && info.Size() == head+rest
}

func (s *Store) usesPath(project string) string {
	return s.path(dirTargets, digest.FromString(project).Encoded())
}

// readUses reads the file of a project. built is when the targets in Last were built.
func readUses(path string) (p projectUses, built time.Time, ok bool) {
	raw, err := readBounded(path, maxUses)
	if err != nil {
		return p, built, false
	}
	_, body, found := bytes.Cut(raw, []byte{'\n'})
	info, err := os.Lstat(path)
	if !found || err != nil || json.Unmarshal(body, &p) != nil || p.Targets == nil {
		return p, built, false
	}
	return p, info.ModTime(), true
}

// staleProject reports whether a file is damaged or about a project that no longer exists.
func (s *Store) staleProject(path string) bool {
	p, _, ok := readUses(path)
	if !ok {
		return true
	}
	_, err := os.Lstat(p.Project)
	return err != nil
}

// targetRef lists the items of the cache that one target refers to.
type targetRef struct {
	project, target string
	built           time.Time
	paths           []string // of items, relative to the cache directory
}

// targetRefs returns the references of all targets, sorted by project and target.
func (s *Store) targetRefs() []targetRef {
	names, err := os.ReadDir(s.path(dirTargets))
	if err != nil {
		return nil
	}
	var all []targetRef
	for _, n := range names {
		p, built, ok := readUses(s.path(dirTargets, n.Name()))
		if !ok {
			continue
		}
		for name, t := range p.Targets {
			c := targetRef{project: p.Project, target: name, built: t.Built, paths: s.itemPaths(t.Use)}
			if slices.Contains(p.Last, name) {
				c.built = built
			}
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b targetRef) int {
		return slices.Compare([]string{a.project, a.target}, []string{b.project, b.target})
	})
	return all
}

// itemPaths returns the paths of the items in a use, without duplicates.
func (s *Store) itemPaths(u Use) []string {
	var paths []string
	blob := func(d digest.Digest) { paths = append(paths, filepath.Join(dirBlobs, d.Encoded())) }
	layer := func(id digest.Digest) { paths = append(paths, filepath.Join(dirLayers, id.Encoded())) }
	packed := func(id digest.Digest) {
		meta, _ := s.LayerMeta(id)
		for _, p := range meta.Packed {
			blob(p.Digest)
		}
	}
	for _, id := range u.Layers {
		layer(id)
		packed(id)
	}
	for _, d := range u.Bases {
		s.baseRefs(d, 0, blob, func(diff, chain digest.Digest) {
			layer(chain)
			packed(diff)
		})
	}
	for _, id := range u.Mounts {
		paths = append(paths, filepath.Join(dirMounts, mountName(id)))
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// baseRefs calls blob for each blob of a base image, and layer for each of its layers with diff ID and chain ID.
func (s *Store) baseRefs(d digest.Digest, depth int, blob func(digest.Digest), layer func(diff, chain digest.Digest)) {
	m, ok := s.readManifest(d)
	if !ok || depth > 3 {
		return
	}
	blob(d)
	for _, child := range m.Manifests {
		if child.Digest.Validate() == nil {
			s.baseRefs(child.Digest, depth+1, blob, layer)
		}
	}
	for _, l := range m.Layers {
		if l.Digest.Validate() == nil {
			blob(l.Digest)
		}
	}
	if m.Config == nil || m.Config.Digest.Validate() != nil {
		return
	}
	blob(m.Config.Digest)
	var config ocispecs.Image
	raw, err := readBounded(s.BlobPath(m.Config.Digest), maxManifest)
	if err != nil || json.Unmarshal(raw, &config) != nil {
		return
	}
	var chain digest.Digest
	for _, diff := range config.RootFS.DiffIDs {
		if diff.Validate() != nil {
			return
		}
		chain = ChainID(chain, diff)
		layer(diff, chain)
	}
}

// ChainID returns the ID of the directory of a base layer. It depends on the layers below, because the directory does.
// chain is the ID of the layer below, empty for the lowest.
func ChainID(chain, diff digest.Digest) digest.Digest {
	if chain == "" {
		return diff
	}
	return digest.FromString(chain.String() + " " + diff.String())
}

// setTargetBuilt sets for each item when a target that refers to it was last built.
func (s *Store) setTargetBuilt(v *survey) {
	last := map[string]time.Time{}
	for _, c := range s.targetRefs() {
		for _, p := range c.paths {
			if c.built.After(last[p]) {
				last[p] = c.built
			}
		}
	}
	for i := range v.items {
		it := &v.items[i]
		it.targetBuilt = last[filepath.Join(it.dir, it.name)]
		if it.targetBuilt.After(v.now) {
			it.targetBuilt = v.now
		}
	}
}
