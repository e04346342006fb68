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
)

// Use is what a target stood on when it was built last.
type Use struct {
	Target string
	Layers []digest.Digest // layers that its steps made
	Bases  []digest.Digest // manifests, or indices, of base images
	Mounts []string        // ids of cache mounts
}

// projectUses is the file of one project, after a line that says what the last build recorded.
type projectUses struct {
	Project string // its directory
	Last    []string
	Targets map[string]targetUse
}

type targetUse struct {
	Use
	Built time.Time // of a target of Last the time of the file counts
}

// maxUses bounds the file, in bytes.
const maxUses = 64 << 20

// RecordUses notes what the targets of a project stand on: what the cache takes is told by target, and what a target
// stands on counts as used when the target is built, whether or not that had to look at it. uses are in a fixed order.
func (s *Store) RecordUses(project string, uses []Use) error {
	path := s.usesPath(project)
	h := fnv.New64a()
	for _, u := range uses {
		fmt.Fprintln(h, u)
	}
	head := fmt.Sprintf("%016x\n", h.Sum64())
	if f, err := os.Open(path); err == nil {
		had := make([]byte, len(head))
		_, err := f.ReadAt(had, 0)
		f.Close()
		if err == nil && string(had) == head {
			now := time.Now()
			return wrap("note a use in", path, os.Chtimes(path, now, now))
		}
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
	return wrap("record uses in", path, s.writeFile(path, append([]byte(head), raw...)))
}

func (s *Store) usesPath(project string) string {
	return s.path(dirTargets, digest.FromString(project).Encoded())
}

// readUses reads a project's file; built is when the targets of Last were built.
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

// staleProject says that a file is about a project that is no more.
func (s *Store) staleProject(path string) bool {
	p, _, ok := readUses(path)
	if !ok {
		return true
	}
	_, err := os.Lstat(p.Project)
	return err != nil
}

// claim is one target's use of things of the cache.
type targetRef struct {
	project, target string
	built           time.Time
	paths           []string // of items, below the cache
}

// claims are what all targets use, by project and target.
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

// itemPaths are the items of a use, each once.
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

// baseRefs goes through a base image: its blobs, and its layers by diff id and by chain id.
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

// ChainID names the directory form of a base layer: what its directories look like depends on the layers below. chain is
// the id of the layer below, empty for the lowest.
func ChainID(chain, diff digest.Digest) digest.Digest {
	if chain == "" {
		return diff
	}
	return digest.FromString(chain.String() + " " + diff.String())
}

// setTargetBuilt says of each item when a target that stands on it was built last.
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
