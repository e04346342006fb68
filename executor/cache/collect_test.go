package cache

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const mib = 1 << 20

// bigLayer commits a layer of one MiB, last used the given number of hours ago, and an entry for it.
func bigLayer(t *testing.T, s *Store, name string, hours int) {
	t.Helper()
	id := digest.FromString(name)
	putLayer(t, s, id, string(make([]byte, mib)))
	if err := s.Put(testEntry("key of "+name, name)); err != nil {
		t.Fatal(err)
	}
	age(t, s.layerPath(id), hours)
	age(t, s.own().entryPath(digest.FromString("key of "+name)), hours)
}

// bigBlob commits a blob of one MiB, last used the given number of hours ago.
func bigBlob(t *testing.T, s *Store, name string, hours int) digest.Digest {
	t.Helper()
	d := putBlob(t, s, name+string(make([]byte, mib)))
	age(t, s.BlobPath(d), hours)
	return d
}

func age(t *testing.T, path string, hours int) {
	t.Helper()
	then := time.Now().Add(-time.Duration(hours) * time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

// putManifest stores an image with the layers and returns the digest of its manifest.
func putManifest(t *testing.T, s *Store, layers ...digest.Digest) digest.Digest {
	t.Helper()
	config := putBlob(t, s, fmt.Sprint("{}", layers))
	m := ocispecs.Manifest{MediaType: ocispecs.MediaTypeImageManifest, Config: ocispecs.Descriptor{Digest: config}}
	for _, l := range layers {
		m.Layers = append(m.Layers, ocispecs.Descriptor{Digest: l, Size: mib})
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return putBlob(t, s, string(raw))
}

func putImage(t *testing.T, s *Store, name, kind string, manifest digest.Digest) {
	t.Helper()
	if err := s.PutImages([]Image{{Name: name, Kind: kind, Digest: manifest,
		MediaType: ocispecs.MediaTypeImageManifest}}); err != nil {
		t.Fatal(err)
	}
}

// left returns those of the named layers that still exist.
func left(s *Store, names ...string) []string {
	var list []string
	for _, n := range names {
		if _, err := os.Lstat(s.layerPath(digest.FromString(n))); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// TestCollectLeastRecentlyUsed checks which layers go when the process that collects has used one of them itself.
func TestCollectLeastRecentlyUsed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for i, name := range []string{"new", "used", "middle", "old", "oldest"} {
		bigLayer(t, s, name, i+1)
	}
	if e, err := s.Lookup(digest.FromString("key of used")); e == nil || err != nil {
		t.Fatal(e, err)
	}
	done, err := s.Collect(t.Context(), Limits{Size: 4 * mib})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"new", "used", "middle"},
		left(s, "new", "used", "middle", "old", "oldest")); diff != "" {
		t.Error(diff)
	}
	if done.Over != 0 || done.Items != 2 || done.Total > 4*mib {
		t.Errorf("%+v", done)
	}
	if want := blocksBelow(t, dir); done.Total < want-64<<10 || done.Total > want+64<<10 {
		t.Errorf("reported total %d, want %d", done.Total, want)
	}
	for name, want := range map[string]bool{"new": true, "old": false} {
		if _, err := os.Lstat(s.own().entryPath(digest.FromString("key of " + name))); (err == nil) != want {
			t.Errorf("entry of %s: %v", name, err)
		}
	}
}

// TestCollectKeepsRoots checks that named images and pins stay whatever the limit, and of other bases the manifest.
func TestCollectKeepsRoots(t *testing.T) {
	s := open(t, t.TempDir())
	lock := filepath.Join(t.TempDir(), "bake.lock")
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	blobs := map[string]digest.Digest{}
	manifests := map[string]digest.Digest{}
	for _, name := range []string{"built", "base", "pinned", "unnamed"} {
		blobs[name] = bigBlob(t, s, name, 1)
		manifests[name] = putManifest(t, s, blobs[name])
	}
	putImage(t, s, "docker.io/library/built:1", KindBuilt, manifests["built"])
	putImage(t, s, "docker.io/library/base:1", KindBase, manifests["base"])
	putImage(t, s, "docker.io/library/pinned:1", KindBase, manifests["pinned"])
	if err := s.PutPins(lock, []digest.Digest{manifests["pinned"]}); err != nil {
		t.Fatal(err)
	}
	there := func(all map[string]digest.Digest) []string {
		var list []string
		for name, d := range all {
			if _, err := os.Lstat(s.BlobPath(d)); err == nil {
				list = append(list, name)
			}
		}
		slices.Sort(list)
		return list
	}
	done, err := s.Collect(t.Context(), Limits{Size: mib})
	if err != nil {
		t.Fatal(err)
	}
	if done.Over < mib {
		t.Errorf("two roots of a MiB each should exceed the limit: %+v", done)
	}
	if diff := cmp.Diff([]string{"built", "pinned"}, there(blobs)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"base", "built", "pinned"}, there(manifests)); diff != "" {
		t.Error(diff)
	}
	u, err := s.Usage()
	if err != nil || u.Roots < 2*mib || u.Roots > 3*mib {
		t.Errorf("roots take %d, %v", u.Roots, err)
	}
	// Without the lock file and the name, they can be evicted.
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RemoveImage("docker.io/library/built:1"); err != nil {
		t.Fatal(err)
	}
	putBlob(t, s, "something new")
	if done, err = s.Collect(t.Context(), Limits{Size: mib}); err != nil || done.Over != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if list := there(blobs); len(list) > 0 {
		t.Errorf("%q remain", list)
	}
}

// TestCollectDuringBuild checks that what another running process has used stays.
func TestCollectDuringBuild(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	for _, name := range []string{"a", "b", "c"} {
		bigLayer(t, first, name, 2)
	}
	other, s := open(t, dir), open(t, dir)
	age(t, first.lease.Name(), -1) // make the other lease the oldest
	if e, err := other.Lookup(digest.FromString("key of b")); e == nil || err != nil {
		t.Fatal(e, err)
	}
	done, err := s.Collect(t.Context(), Limits{Size: mib / 2})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b"}, left(s, "a", "b", "c")); diff != "" {
		t.Error(diff)
	}
	if done.Over == 0 {
		t.Error("a layer in use should exceed the limit")
	}
}

// TestCollectKeepsLayersOfTargets checks that building a target counts as a use of its layers, even if not touched.
func TestCollectKeepsLayersOfTargets(t *testing.T) {
	s := open(t, t.TempDir())
	bigLayer(t, s, "base of a target", 100)
	bigLayer(t, s, "newer", 50)
	if err := s.RecordUses(t.TempDir(), []Use{{Target: "a",
		Layers: []digest.Digest{digest.FromString("base of a target")}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), Limits{Size: 2 * mib}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"base of a target"}, left(s, "base of a target", "newer")); diff != "" {
		t.Error(diff)
	}
}

// TestCollectForReserve checks that a full disk triggers a collection even if the cache is small.
func TestCollectForReserve(t *testing.T) {
	s := open(t, t.TempDir())
	bigLayer(t, s, "a", 2)
	bigLayer(t, s, "b", 1)
	space, err := SpaceOf(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	done, err := s.Collect(t.Context(), Limits{Reserve: space.Size})
	if err != nil {
		t.Fatal(err)
	}
	if left := left(s, "a", "b"); len(left) > 0 || done.Over < (space.Size-space.Free)/2 {
		t.Errorf("%q remain: %+v", left, done)
	}
	// Nothing more can be freed until something is written, so later builds do not try again.
	if err := os.Remove(s.path(fileSizes)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), Limits{Reserve: space.Size}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.path(fileSizes)); err == nil {
		t.Error("the cache was measured again")
	}
}

// TestCollectMeasuresOnlyWhenItMust checks that below the limit the ledger is used, and that a killed process leads to
// a measurement.
func TestCollectMeasuresOnlyWhenItMust(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	measured := func() bool {
		t.Helper()
		if err := os.RemoveAll(s.path(fileSizes)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Collect(t.Context(), Limits{Size: 100 * mib}); err != nil {
			t.Fatal(err)
		}
		_, err := os.Lstat(s.path(fileSizes))
		return err == nil
	}
	bigLayer(t, s, "a", 1)
	if !measured() {
		t.Error("an unknown cache was not measured")
	}
	bigLayer(t, s, "b", 1)
	if measured() {
		t.Error("the cache was measured because of one layer")
	}
	var l ledger
	if _, err := s.changeLedger(false, func(known *ledger) { l = *known }); err != nil {
		t.Fatal(err)
	}
	if want := blocksBelow(t, dir); l.Total < want-64<<10 || l.Total > want+128<<10 {
		t.Errorf("the ledger has %d, want %d", l.Total, want)
	}
	if err := os.Mkdir(filepath.Join(dir, dirTmp, "dead"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, dirTmp, "dead.lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if !measured() {
		t.Error("what a dead process wrote was not measured")
	}
}

// TestClockSetBack checks that a time in the future does not keep an item forever, and that a use corrects it.
func TestClockSetBack(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	bigLayer(t, s, "a", -10)
	bigLayer(t, s, "b", -10)
	if e, err := s.Lookup(digest.FromString("key of a")); e == nil || err != nil {
		t.Fatal(e, err)
	}
	if _, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a"}, left(s, "a", "b")); diff != "" {
		t.Error(diff)
	}
}

// TestSweep checks that stale entries, aliases and locks are removed, and that valid or held ones stay.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	bigLayer(t, s, "gone", 2)
	bigLayer(t, s, "there", 2)
	for _, alias := range []string{"gone", "there"} {
		if err := s.Alias(digest.FromString("alias of "+alias), digest.FromString("key of "+alias)); err != nil {
			t.Fatal(err)
		}
		age(t, s.own().entryPath(digest.FromString("alias of "+alias)), 2)
	}
	held, err := s.Lock(t.Context(), digest.FromString("held"))
	if err != nil {
		t.Fatal(err)
	}
	defer held()
	abandoned := s.path(dirLocks, digest.FromString("abandoned").Encoded())
	if err := os.WriteFile(abandoned, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	age(t, abandoned, 2)
	age(t, s.path(dirLocks, digest.FromString("held").Encoded()), 2)
	if err := os.RemoveAll(s.layerPath(digest.FromString("gone"))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(t.Context(), PruneOptions{OlderThan: 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		s.own().entryPath(digest.FromString("key of gone")):    false,
		s.own().entryPath(digest.FromString("alias of gone")):  false,
		s.own().entryPath(digest.FromString("key of there")):   true,
		s.own().entryPath(digest.FromString("alias of there")): true,
		abandoned: false, s.path(dirLocks, digest.FromString("held").Encoded()): true, s.path(dirLocks, "gate"): true,
	} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}
