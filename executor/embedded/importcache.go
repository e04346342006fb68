package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// Caches are the remote caches of a project file, by target: From is imported, To is exported.
type Caches struct {
	From, To map[string][]config.Attrs
}

// WithCaches returns the engine with remote caches. Their errors are reported to executor.Options.Warn and do not
// fail a build.
func (e *Engine) WithCaches(c Caches) *Engine {
	with := *e
	with.caches = c
	return &with
}

// imports are the remote caches that a run reads. All methods of a nil *imports find nothing.
//
// Import of a remote cache. The problem: a remote cache may be large, slow, damaged, or lose blobs between two
// requests, and a build must be no slower or less correct with it. So the index is read at the first miss of the
// local cache, and a layer is fetched when its files are read. Lookups before that are answered by the layer's list
// of paths.
//
// What is verified: blobs by digest and size, layers by diff id, a path list by comparison with the unpacked layer,
// and a key by the digest of its parts. What cannot be verified is the claim that a key gives this layer; read caches
// of those only whose images you would run.
//
// The invariant: an entry is only served if each of its layers is on this machine or can still be fetched. A layer
// that cannot be fetched is lost: it is recorded here, the step fails with a lostError, and Engine.Run runs the graph
// again without it. Steps that are done are then local hits. Each rerun has lost at least one more layer, so it ends.
// Without the record the rerun would choose the same entry again. TestRemoteCacheDamage, TestRemoteCacheMissing and
// TestRemoteCacheDroppedByRegistry show it.
type imports struct {
	engine  *Engine
	ctx     context.Context // of the run: cancelling one step must not cancel a read that others wait for
	places  []remotecache.Place
	exports []exportPlace
	events  *events
	warn    func(string)

	once    sync.Once
	sources []remotecache.Source
	entries map[digest.Digest]*importedEntry // by key
	byID    map[digest.Digest]*importedEntry
	groups  map[digest.Digest][]*importedEntry // file operations without their parent
	layers  map[digest.Digest]importedLayer
	mounts  map[string]importedLayer

	mu sync.Mutex
	// lost are the layers that could not be fetched; the steps that need them run again.
	lost map[digest.Digest]bool
	// unusable are the blobs that were damaged or missing; an export writes them again.
	unusable map[digest.Digest]bool
	// more is set if a layer was lost since the last call of lostMore.
	more  bool
	paths map[digest.Digest]*tree.Index // by layer
}

// importedEntry is an entry and the cache that it is from.
type importedEntry struct {
	*cache.Entry
	from remotecache.Source
}

// importedLayer is a layer, or the content of a cache mount, and the cache that it is from.
type importedLayer struct {
	remotecache.Layer
	from remotecache.Source
}

// exportPlace is a place to which a target's cache is exported.
type exportPlace struct {
	target string
	place  remotecache.Place
}

// newImports collects the remote caches of a graph's targets; it reads nothing.
func (e *Engine) newImports(ctx context.Context, g *planner.Graph, opts executor.Options) *imports {
	c := &imports{
		engine: e, ctx: ctx, events: newEvents(opts.Events), warn: opts.Warn,
		lost: map[digest.Digest]bool{}, unusable: map[digest.Digest]bool{}, paths: map[digest.Digest]*tree.Index{},
	}
	if c.warn == nil {
		c.warn = func(string) {}
	}
	for _, target := range targetsOf(g) {
		for _, a := range e.caches.From[target] {
			p, ok := c.parse(target, "cache-from", a, opts.Dir)
			if ok && !slices.ContainsFunc(c.places, p.Same) {
				c.places = append(c.places, p)
			}
		}
		for _, a := range e.caches.To[target] {
			if p, ok := c.parse(target, "cache-to", a, opts.Dir); ok {
				c.exports = append(c.exports, exportPlace{target, p})
			}
		}
	}
	return c
}

// targetsOf returns the targets of a graph's steps and images, sorted.
func targetsOf(g *planner.Graph) []string {
	var all []string
	for _, s := range g.Steps {
		all = append(all, s.Targets...)
	}
	for _, i := range g.Images {
		all = append(all, i.Target)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// parse parses an entry of cache-from or cache-to. An invalid entry is a warning.
func (c *imports) parse(target, name string, a config.Attrs, dir string) (remotecache.Place, bool) {
	p, ignored, err := remotecache.Parse(a, name == "cache-to", dir)
	if err != nil {
		c.warn(fmt.Sprintf("target %s: ignoring %s %v", target, name, err))
		return p, false
	}
	for _, attr := range ignored {
		c.warn(fmt.Sprintf("target %s: %s type=%s: ignoring unknown attribute %s", target, name, a["type"], attr))
	}
	return p, true
}

// load reads the indexes of all caches in parallel, once.
func (c *imports) load() {
	c.once.Do(func() {
		indexes := make([]*remotecache.Index, len(c.places))
		var wg sync.WaitGroup
		for i, p := range c.places {
			from := p.Source(c.engine.client)
			c.sources = append(c.sources, from)
			wg.Go(func() { indexes[i] = c.read(from) })
		}
		wg.Wait()
		c.entries, c.byID = map[digest.Digest]*importedEntry{}, map[digest.Digest]*importedEntry{}
		c.groups = map[digest.Digest][]*importedEntry{}
		c.layers, c.mounts = map[digest.Digest]importedLayer{}, map[string]importedLayer{}
		for i, x := range indexes {
			if x != nil {
				c.add(x, c.sources[i])
			}
		}
	})
}

// read reads one index.
func (c *imports) read(from remotecache.Source) (x *remotecache.Index) {
	a := c.events.begin("import cache from " + from.String())
	var err error
	defer func() { a.end(err) }()
	x, err = from.Index(c.ctx)
	switch {
	case err != nil && c.ctx.Err() == nil:
		c.warn(fmt.Sprintf("the cache %s is not used: %v", from, err))
		err = nil // already reported as a warning; the display would show a failed build
	case x == nil:
		a.log("the cache does not exist yet")
	default:
		a.log(fmt.Sprintf("%d steps, %d layers", len(x.Entries), len(x.Layers)))
	}
	return x
}

// add adds the entries and layers of one cache. If two caches have the same key, the first counts.
func (c *imports) add(x *remotecache.Index, from remotecache.Source) {
	put := func(in map[digest.Digest]*importedEntry, key digest.Digest, e *importedEntry) {
		if in[key] == nil {
			in[key] = e
		}
	}
	for i := range x.Entries {
		e := &importedEntry{&x.Entries[i].Entry, from}
		put(c.byID, e.ID, e)
		for _, key := range append(x.Entries[i].Aliases, e.Key) {
			put(c.entries, key, e)
		}
		latest := latestKey(e.Step)
		if old := c.entries[latest]; old == nil || old.Created.Before(e.Created) {
			c.entries[latest] = e
		}
		if group, ok := groupOf(e.Entry); ok {
			c.groups[group] = append(c.groups[group], e)
		}
	}
	for _, l := range x.Layers {
		if old, ok := c.layers[l.ID]; !ok || old.Blob == nil {
			c.layers[l.ID] = importedLayer{l, from}
		}
	}
	for _, m := range x.Mounts {
		if _, ok := c.mounts[m.ID]; !ok {
			c.mounts[m.ID] = importedLayer{m.Layer, from}
		}
	}
}

// usable reports whether all layers of an entry are on this machine or can be fetched.
func (c *imports) usable(e *importedEntry) bool {
	for _, o := range e.Outputs {
		for _, p := range o.Parts {
			if p.Layer == "" || p.Layer == emptyLayer {
				continue
			}
			if _, ok := c.layer(p.Layer); ok {
				continue
			}
			if _, ok := c.engine.store.LayerDir(p.Layer); !ok {
				return false
			}
		}
	}
	return true
}

// entry returns the usable entry of a key, or nil.
func (c *imports) entry(key digest.Digest) *importedEntry {
	if c == nil || len(c.places) == 0 {
		return nil
	}
	c.load()
	if e := c.entries[key]; e != nil && c.usable(e) {
		return e
	}
	return nil
}

// candidates returns the usable entries of file operations with this group key.
func (c *imports) candidates(group digest.Digest) []*cache.Entry {
	if c == nil || len(c.places) == 0 {
		return nil
	}
	c.load()
	var all []*cache.Entry
	for _, e := range c.groups[group] {
		if c.usable(e) {
			all = append(all, e.Entry)
		}
	}
	return all
}

// selections returns the known content digests of an entry's outputs.
func (c *imports) selections(id digest.Digest) []cache.Selection {
	if c == nil || len(c.places) == 0 {
		return nil
	}
	c.load()
	if e := c.byID[id]; e != nil {
		return e.Selections
	}
	return nil
}

// layer returns a layer that is not lost.
func (c *imports) layer(id digest.Digest) (importedLayer, bool) {
	if c == nil || len(c.places) == 0 {
		return importedLayer{}, false
	}
	c.load()
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.layers[id]
	return l, ok && !c.lost[id]
}

// mount returns the content of a cache mount.
func (c *imports) mount(id string) (importedLayer, bool) {
	if c == nil || len(c.places) == 0 {
		return importedLayer{}, false
	}
	c.load()
	l, ok := c.mounts[id]
	return l, ok
}

// lose records that a layer cannot be fetched and returns a lostError.
func (c *imports) lose(l importedLayer, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.lost[l.ID] {
		c.lost[l.ID], c.more = true, true
		if l.Blob != nil {
			c.warn(fmt.Sprintf("layer %s of the cache %s cannot be used: %v; its step runs again", l.ID, l.from, err))
		}
		if bad, ok := remotecache.Unusable(err); ok {
			c.unusable[bad] = true
		}
	}
	return &lostError{l.ID, err}
}

// lostMore reports whether layers were lost since the last call.
func (c *imports) lostMore() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	more := c.more
	c.more = false
	return more
}

// distrusts reports whether a blob was found damaged or missing.
func (c *imports) distrusts(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unusable[d]
}

// close closes the sources.
func (c *imports) close() {
	for _, s := range c.sources {
		_ = s.Close() // it was only read
	}
}

// lostError means that a layer named by a remote cache cannot be fetched. The graph runs again without it.
type lostError struct {
	id  digest.Digest
	err error
}

// Error implements error.
func (e *lostError) Error() string { return fmt.Sprintf("layer %s: %v", e.id, e.err) }

// Unwrap returns the cause.
func (e *lostError) Unwrap() error { return e.err }

var errLeftBehind = errors.New("the cache was exported without this layer (mode=min)")

// groupOf returns the group key of a file operation's entry: its final key without the parent, see keyed.
func groupOf(e *cache.Entry) (digest.Digest, bool) {
	if !slices.Contains(e.Inputs, key.Part{Name: "kind", Digest: "file"}) {
		return "", false
	}
	own := slices.DeleteFunc(slices.Clone(e.Inputs), func(i key.Part) bool { return i.Name == "parent" })
	return key.Of(own), true
}
