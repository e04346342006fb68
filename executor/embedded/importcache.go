package embedded

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
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
// and a key by the digest of its parts. What cannot be verified is a claim, see claim.go.
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
	sources []*source // of places, in the order in which the build names them
	exports []exportPlace
	steps   int // of the graph
	events  *events
	warn    func(string)

	once   sync.Once
	loaded atomic.Bool

	decoding sync.Mutex // held while a list of paths is decoded

	mu sync.Mutex
	// layers are the layers of entries that were found, by the ids that they have here.
	layers map[digest.Digest]importedLayer
	// lost are the layers that could not be fetched; the steps that need them run again.
	lost map[digest.Digest]bool
	// unusable are the blobs that were damaged or missing; an export writes them again.
	unusable map[digest.Digest]bool
	// more is set if a layer was lost since the last call of lostMore.
	more bool
	// paths are the path lists that were read, see pathLists.
	paths pathLists
	// pinned are the files of layers whose content a checksum states.
	pinned map[digest.Digest]pinnedFile
}

// importedLayer is a layer, or the content of a cache mount, and the cache that it is from.
type importedLayer struct {
	remotecache.Layer
	id   digest.Digest // the id that the layer has here; Layer.ID is its name in the index
	from *source
}

// exportPlace is a place to which a target's cache is exported.
type exportPlace struct {
	target string
	place  remotecache.Place
}

// newImports collects the remote caches of a graph's targets; it reads nothing.
func (e *Engine) newImports(ctx context.Context, g *planner.Graph, opts executor.Options) *imports {
	c := &imports{
		engine: e, ctx: ctx, events: newEvents(opts.Events), warn: opts.Warn, steps: len(g.Steps),
		layers: map[digest.Digest]importedLayer{}, lost: map[digest.Digest]bool{},
		unusable: map[digest.Digest]bool{}, pinned: map[digest.Digest]pinnedFile{},
	}
	if c.warn == nil {
		c.warn = func(string) {}
	}
	for _, target := range targetsOf(g) {
		for _, a := range e.caches.From[target] {
			p, ok := c.parse(target, "cache-from", a, opts.Dir)
			if ok && !slices.ContainsFunc(c.places, p.Same) {
				c.places = append(c.places, p)
				c.sources = append(c.sources, newRemote(e, p))
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

func newRemote(e *Engine, p remotecache.Place) *source {
	origin, from := p.Origin(), p.Source(e.client)
	if e.open != nil {
		from = e.open(p)
	}
	return &source{Source: from, origin: origin, set: e.store.ClaimSet(origin.ID())}
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
		var wg sync.WaitGroup
		for _, s := range c.sources {
			wg.Go(func() { s.index = c.read(s) })
		}
		wg.Wait()
		c.loaded.Store(true)
	})
}

// read reads one index.
func (c *imports) read(from *source) (x *remotecache.Catalog) {
	a := c.events.begin("import cache from " + from.String())
	var err error
	defer func() { a.end(err) }()
	x, err = from.Index(c.ctx, c.engine.store.Scratch)
	from.partial.Store(err != nil)
	switch {
	case err != nil && c.ctx.Err() != nil:
		err = nil // the build stops
	case err != nil:
		c.warn(fmt.Sprintf("the cache %s is not used: %v", from, err))
		err = nil // already reported as a warning; the display would show a failed build
	case x == nil:
		a.log("the cache does not exist yet")
	default:
		x.Limit(c.steps, func(err error) {
			from.partial.Store(true)
			c.warn(fmt.Sprintf("the cache %s is not used any more: %v", from, err))
		})
		a.log(fmt.Sprintf("%d steps, %d layers", x.Entries, x.Layers))
	}
	return x
}

// none reports whether the build names no remote cache.
func (c *imports) none() bool { return c == nil || len(c.sources) == 0 }

// entry returns the usable claim about a portable key, or nil. The caches are asked in the order in which the build
// names them. What was taken from one before is used without reading its index, if all caches named before it did not
// have it either. fits reports whether the outputs are possible for the step.
func (c *imports) entry(key digest.Digest, fits func(*cache.Entry) error) (*cache.Entry, *source, error) {
	if c.none() {
		return nil, nil, nil
	}
	if !c.loaded.Load() {
		e, s, err := c.stored(key, fits)
		if e != nil || err != nil {
			return e, s, err
		}
		c.load()
	}
	for _, s := range c.sources {
		e, _, err := s.lookup(key)
		if err != nil {
			return nil, nil, err
		}
		if e != nil && fits(e) == nil && c.intact(e) {
			return e, s, nil
		}
		x := s.catalog()
		if x == nil {
			continue
		}
		accept := func(e *remotecache.Entry) bool { return c.accept(s, &e.Entry, fits) }
		if e := x.Entry(key, accept); e != nil {
			return &e.Entry, s, nil
		}
	}
	return nil, nil, nil
}

// stored is entry without the indexes.
func (c *imports) stored(key digest.Digest, fits func(*cache.Entry) error) (*cache.Entry, *source, error) {
	for i, s := range c.sources {
		e, after, err := s.lookup(key)
		if err != nil {
			return nil, nil, err
		}
		if e == nil || fits(e) != nil || !c.intact(e) {
			continue
		}
		for _, before := range c.before(s)[:i] {
			if !slices.Contains(after, before) {
				return nil, nil, nil
			}
		}
		return e, s, nil
	}
	return nil, nil, nil
}

// asked returns the origins of the caches that are named before s and did not have what s has.
func (c *imports) asked(s *source) []string {
	var all []string
	for _, o := range c.sources[:slices.Index(c.sources, s)] {
		if !o.partial.Load() && !o.stopped.Load() {
			all = append(all, o.origin.ID())
		}
	}
	return all
}

// before returns the origins of the caches that are named before s.
func (c *imports) before(s *source) []string {
	var all []string
	for _, o := range c.sources[:slices.Index(c.sources, s)] {
		all = append(all, o.origin.ID())
	}
	return all
}

// accept gives the layers of an entry of an index the ids that they have here, and reports whether the entry is
// usable: its outputs are possible, and each layer is here or can be fetched. A wrong entry is a warning.
func (c *imports) accept(s *source, e *cache.Entry, fits func(*cache.Entry) error) bool {
	if err := fits(e); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !s.warned {
			s.warned = true
			c.warn(fmt.Sprintf("the cache %s has a wrong entry for %.80q, which is not used: %v", s, e.Name, err))
		}
		return false
	}
	for i := range e.Outputs {
		for k := range e.Outputs[i].Parts {
			p := &e.Outputs[i].Parts[k]
			if p.Layer == "" || p.Layer == emptyLayer {
				continue
			}
			l := s.index.Layer(p.Layer)
			if l == nil {
				return false
			}
			if p.Layer = c.addLayer(s, l); p.Layer == "" {
				return false
			}
		}
	}
	return true
}

// addLayer records where a layer can be had, and returns the id that it has here; "" for a lost one.
func (c *imports) addLayer(s *source, l *remotecache.Layer) digest.Digest {
	id := importedID(l, s.origin)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost[id] {
		return ""
	}
	if known, ok := c.layers[id]; !ok || known.from.stopped.Load() {
		c.layers[id] = importedLayer{*l, id, s}
	}
	return id
}

// intact reports whether no layer of a stored claim was lost in this run.
func (c *imports) intact(e *cache.Entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.ContainsFunc(layerIDs(e.Outputs), func(id digest.Digest) bool { return c.lost[id] })
}

// claimed is an entry and the remote cache that claims it.
type claimed struct {
	*cache.Entry
	from *source
}

// candidates returns the usable claims about file operations with this group key.
func (c *imports) candidates(group digest.Digest, fits func(*cache.Entry) error) ([]claimed, error) {
	if c.none() {
		return nil, nil
	}
	c.load()
	var all []claimed
	for _, s := range c.sources {
		if s.stopped.Load() {
			continue
		}
		known, err := s.set.Candidates(group)
		if err != nil {
			return nil, err
		}
		for _, e := range known {
			if fits(e) == nil && c.intact(e) {
				all = append(all, claimed{e, s})
			}
		}
		x := s.catalog()
		if x == nil {
			continue
		}
		accept := func(e *remotecache.Entry) bool { return c.accept(s, &e.Entry, fits) }
		for _, e := range x.Group(group, accept) {
			all = append(all, claimed{&e.Entry, s})
		}
	}
	return all, nil
}

// selection returns the content digest of a selection that a remote cache claims for a step's outputs.
func (c *imports) selection(portable digest.Digest, name string) (digest.Digest, *source) {
	if c.none() {
		return "", nil
	}
	c.load()
	for _, s := range c.sources {
		x := s.catalog()
		if x == nil {
			continue
		}
		e := x.ByID(portable)
		if e == nil {
			continue
		}
		for _, one := range e.Selections {
			if one.Name == name && one.Digest.Validate() == nil {
				return one.Digest, s
			}
		}
	}
	return "", nil
}

// latest returns the newest entry of a step definition that a remote cache records, for explanations.
func (c *imports) latest(step digest.Digest) *cache.Entry {
	if c.none() {
		return nil
	}
	c.load()
	for _, s := range c.sources {
		x := s.catalog()
		if x == nil {
			continue
		}
		if e := x.Latest(step); e != nil {
			return &e.Entry
		}
	}
	return nil
}

// layer returns a layer of an entry that was found, unless it is lost.
func (c *imports) layer(id digest.Digest) (importedLayer, bool) {
	if c.none() {
		return importedLayer{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.layers[id]
	return l, ok && !c.lost[id]
}

// mount returns the content of a cache mount of the first cache that has it.
func (c *imports) mount(id string) (importedLayer, bool) {
	if c.none() {
		return importedLayer{}, false
	}
	c.load()
	for _, s := range c.sources {
		if l, ok := s.mount(id); ok {
			return l, true
		}
	}
	return importedLayer{}, false
}

// mount returns the content of a cache mount that the cache has. Its index must be loaded.
func (s *source) mount(id string) (importedLayer, bool) {
	x := s.catalog()
	if x == nil {
		return importedLayer{}, false
	}
	m := x.Mount(id)
	if m == nil {
		return importedLayer{}, false
	}
	return importedLayer{m.Layer, importedID(&m.Layer, s.origin), s}, true
}

// close closes the sources.
func (c *imports) close() {
	for _, s := range c.sources {
		_ = s.Close() // it was only read
		if s.index != nil {
			_ = s.index.Close()
		}
	}
}
