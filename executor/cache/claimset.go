package cache

import (
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"
)

// ClaimSet holds the entries that builds here took from one remote cache. Nothing verified that a step makes the layer
// that an entry names, so they are apart from the entries of steps that ran here, in a directory of their own, and
// serve only builds that name the cache. Their layers are in the layers of the store under ids that were computed from
// verified content.
//
// An entry is stored with the origins that came before this one when a build took it and that did not have it (After).
// A build that names other caches first asks those, so what it gets does not depend on earlier builds.
type ClaimSet struct {
	set    entrySet
	origin string
	named  atomic.Bool // the name was checked by Add
}

const fileOrigin = "origin"

// maxOrigin bounds the text of an origin, in bytes.
const maxOrigin = 4 << 10

// maxAfter bounds the origins that are recorded with an entry.
const maxAfter = 64

// ClaimSet returns the claims of one origin. The text identifies it.
func (s *Store) ClaimSet(origin string) *ClaimSet {
	name := digest.FromString(origin).Encoded()
	return &ClaimSet{set: entrySet{s, s.path(dirClaimed, name)}, origin: origin}
}

// ClaimOrigins returns the origins of which the store has claims, sorted.
func (s *Store) ClaimOrigins() []string {
	var all []string
	for _, dir := range s.claimDirs() {
		raw, err := readBounded(filepath.Join(dir, fileOrigin), maxOrigin)
		if err == nil && digest.FromBytes(raw).Encoded() == filepath.Base(dir) {
			all = append(all, string(raw))
		}
	}
	slices.Sort(all)
	return all
}

// claimDirs returns the directories of the claims of all origins.
func (s *Store) claimDirs() []string {
	names, err := os.ReadDir(s.path(dirClaimed))
	if err != nil {
		return nil // there are no claims
	}
	dirs := make([]string, len(names))
	for i, n := range names {
		dirs[i] = s.path(dirClaimed, n.Name())
	}
	return dirs
}

// entrySets returns what ran here and the claims of all origins.
func (s *Store) entrySets() []entrySet {
	sets := []entrySet{s.own()}
	for _, dir := range s.claimDirs() {
		sets = append(sets, entrySet{s, dir})
	}
	return sets
}

// dropEmptySets removes the directories of origins without entries, and what is in the place of one. Another process
// may add an entry meanwhile: then the removal fails, because the directory is not empty.
func (s *Store) dropEmptySets() {
	for _, dir := range s.claimDirs() {
		if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
			_ = os.Remove(dir) // damage: it hides nothing
			continue
		}
		for _, sub := range []string{dirEntries, dirCandidates} {
			_ = os.Remove(filepath.Join(dir, sub)) // fails unless empty
		}
		names, err := os.ReadDir(dir)
		if err != nil || len(names) > 1 || len(names) == 1 && names[0].Name() != fileOrigin {
			continue
		}
		_ = os.Remove(filepath.Join(dir, fileOrigin)) // written again with the next entry
		_ = os.Remove(dir)
	}
}

// Lookup is Store.Lookup among the claims. after lists the origins that did not have the entry.
func (c *ClaimSet) Lookup(key digest.Digest) (e *Entry, after []string, err error) {
	return c.set.lookup(key)
}

// Has reports whether there is an entry or alias for a key, whether or not its layers are here.
func (c *ClaimSet) Has(key digest.Digest) bool {
	_, err := os.Lstat(c.set.entryPath(key))
	return err == nil
}

// Candidates is Store.Candidates among the claims.
func (c *ClaimSet) Candidates(group digest.Digest) ([]*Entry, error) { return c.set.candidates(group) }

// Put replaces an entry.
func (c *ClaimSet) Put(e *Entry) error {
	v, _ := c.set.s.readEntry(c.set.entryPath(e.Key))
	return c.write(c.set.entryPath(e.Key), stored{Entry: e, After: v.After})
}

// Add stores an entry and lets it serve further keys. Its layers need not exist yet: Lookup does not find the entry
// before they do. Files that already have this content are not written again: a build that repeats another adds the
// same claims.
func (c *ClaimSet) Add(e *Entry, after []string, aliases ...digest.Digest) error {
	if !c.named.Load() { // entries that are there already do not say that the name is
		if err := c.name(); err != nil {
			return err
		}
		c.named.Store(true)
	}
	same := func(v stored) bool { return v.Entry != nil && sameResult(v.Entry, e) }
	if err := c.add(e.Key, stored{Entry: e, After: after}, same); err != nil {
		return err
	}
	for _, key := range aliases {
		if key == e.Key {
			continue
		}
		same := func(v stored) bool { return v.Alias == e.Key }
		if err := c.add(key, stored{Alias: e.Key, After: after}, same); err != nil {
			return err
		}
	}
	return nil
}

// add stores v under a key, unless the file there says the same. Origins in its After are kept.
func (c *ClaimSet) add(key digest.Digest, v stored, same func(stored) bool) error {
	path := c.set.entryPath(key)
	if c.set.holds(path, v) {
		return nil
	}
	old, ok := c.set.s.readEntry(path)
	merged, grew := union(old.After, v.After)
	if ok && same(old) && !grew {
		return nil
	}
	v.After = merged
	return c.write(path, v)
}

// AddCandidate is Store.PutCandidate among the claims. It writes nothing that is there already.
func (c *ClaimSet) AddCandidate(group digest.Digest, e *Entry) error {
	if c.set.holds(c.set.candidatePath(group, e), stored{Entry: e}) {
		return nil
	}
	if err := c.name(); err != nil {
		return err
	}
	return c.set.putCandidate(group, e)
}

func (c *ClaimSet) write(path string, v stored) error {
	if err := c.name(); err != nil {
		return err
	}
	return c.set.write(path, v)
}

// name writes the origin's text into the directory of its entries, unless it is there.
func (c *ClaimSet) name() error {
	path := filepath.Join(c.set.root, fileOrigin)
	if raw, err := readBounded(path, maxOrigin); err == nil && string(raw) == c.origin {
		return nil
	}
	return wrap("write", path, c.set.s.writeFile(path, []byte(c.origin)))
}

// sameResult reports whether two entries under one key name the same result.
func sameResult(a, b *Entry) bool {
	return a.ID == b.ID && slices.EqualFunc(a.Outputs, b.Outputs, func(x, y Output) bool {
		return slices.Equal(x.Parts, y.Parts)
	})
}

// union returns the texts of both lists, sorted, and whether it has more than a.
func union(a, b []string) (all []string, grew bool) {
	all = slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
	return all[:min(len(all), maxAfter)], len(all) > len(a) && len(a) < maxAfter
}
