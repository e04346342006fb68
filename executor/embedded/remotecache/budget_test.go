package remotecache

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
)

// anyEntry accepts every entry.
func anyEntry(*Entry) bool { return true }

// catalogOf returns the catalog of an index.
func catalogOf(t *testing.T, x *Index) *Catalog {
	t.Helper()
	raw, err := x.encode()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCatalog(bytes.NewReader(raw), scratch(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// popular is an index of one large entry with many names, which is in a group.
func popular() (x *Index, names []digest.Digest) {
	for i := range 1000 {
		names = append(names, numbered("name", i))
	}
	parts := []key.Part{{Name: "kind", Digest: "file"}}
	e := cache.Entry{ID: numbered("id", 1), Key: key.Of(parts), Inputs: parts}
	for i := range 100 {
		e.Lookups = append(e.Lookups, cache.Lookup{Path: strconv.Itoa(i), Answer: strings.Repeat("x", 1000)})
	}
	return &Index{Entries: []Entry{{Entry: e, Aliases: slices.Clone(names)}}}, names
}

// TestRefusedEntry: an entry that was refused is not read again, under any of its names.
func TestRefusedEntry(t *testing.T) {
	x, names := popular()
	c := catalogOf(t, x)
	asked := 0
	no := func(*Entry) bool { asked++; return false }
	group, _ := GroupOf(&x.Entries[0].Entry)
	for _, name := range names {
		if c.Entry(name, no) != nil || len(c.Group(group, no)) > 0 {
			t.Fatal("a refused entry was found")
		}
	}
	if asked != 1 || c.used.decoded > c.texts.end {
		t.Errorf("it was refused %d times, and %d bytes of %d were decoded", asked, c.used.decoded, c.texts.end)
	}
}

// TestBudget: a cache whose look-ups cost too much is not used any more, which is said once.
func TestBudget(t *testing.T) {
	for name, limit := range map[string]func(*budget, int64){
		"decoded": func(b *budget, n int64) { b.most.decoded = n },
		"kept":    func(b *budget, n int64) { b.most.kept = n },
	} {
		x, names := popular()
		c := catalogOf(t, x)
		said := 0
		c.Limit(1000, func(error) { said++ })
		limit(&c.used, 10*c.texts.end)
		found := 0
		for _, name := range names {
			if c.Entry(name, anyEntry) != nil {
				found++
			}
		}
		if said != 1 || found < 5 || found > 10 {
			t.Errorf("%s: said %d times, %d found", name, said, found)
		}
	}
}

// TestLargeElements: large entries are decoded one at a time, so that many look-ups at once take the memory of one. The
// use of one may look up a large layer.
func TestLargeElements(t *testing.T) {
	const count = 16
	x := &Index{Layers: []Layer{{ID: numbered("layer", 0)}}}
	for i := range maxEncodings {
		x.Layers[0].Packed = append(x.Layers[0].Packed, cache.Packed{
			Encoding: strings.Repeat("x", 100) + strconv.Itoa(i),
			Digest:   numbered("blob", i), DiffID: numbered("diff", i),
		})
	}
	for i := range count {
		parts := []key.Part{{Name: "kind", Digest: strconv.Itoa(i)}}
		x.Entries = append(x.Entries, Entry{Entry: cache.Entry{ID: numbered("id", i), Key: key.Of(parts), Inputs: parts,
			Lookups: []cache.Lookup{{Path: "/", Answer: strings.Repeat("x", 2*largeElement)}}}})
	}
	c := catalogOf(t, x)
	var inside, most, found atomic.Int32
	var all sync.WaitGroup
	for _, e := range x.Entries {
		all.Go(func() {
			c.Entry(e.Key, func(*Entry) bool {
				now := inside.Add(1)
				defer inside.Add(-1)
				most.Store(max(most.Load(), now))
				time.Sleep(5 * time.Millisecond)
				if c.Layer(x.Layers[0].ID) != nil {
					found.Add(1)
				}
				return true
			})
		})
	}
	all.Wait()
	if c.spans[len(c.spans)-1].size <= largeElement {
		t.Error("the layer is not large")
	}
	if most.Load() != 1 || found.Load() != count {
		t.Errorf("%d large entries are in memory at once, %d of %d found their layer", most.Load(), found.Load(), count)
	}
}

// TestBudgetOfLargeBuild: ten look-ups for each of 2,000 steps stay within the bounds.
func TestBudgetOfLargeBuild(t *testing.T) {
	x := &Index{}
	const count = 2000
	for i := range count {
		x.Entries = append(x.Entries, largeEntry(i))
	}
	c := catalogOf(t, x)
	c.Limit(count, func(err error) { t.Error(err) })
	for i := range count {
		e := largeEntry(i)
		for range 5 {
			if c.Entry(e.Key, anyEntry) == nil || c.Entry(e.Aliases[0], anyEntry) == nil {
				t.Fatalf("entry %d is not found", i)
			}
		}
	}
}

// TestAliasOfUnverifiedKey: an entry without the parts of its key has no further names.
func TestAliasOfUnverifiedKey(t *testing.T) {
	x, names := popular()
	x.Entries[0].Inputs = nil
	c := catalogOf(t, x)
	if c.Entry(names[0], anyEntry) != nil {
		t.Error("the entry is found under an alias")
	}
	if c.Entry(x.Entries[0].Key, anyEntry) == nil {
		t.Error("the entry is not found under its key")
	}
}
