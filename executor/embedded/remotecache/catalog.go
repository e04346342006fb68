package remotecache

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"slices"
	"sort"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/registry"
)

// Catalog finds the entries, layers and cache mounts of an index.
//
// The problem: an index may have a million entries, and a hostile one anything. The idea: the text is read once,
// element by element; each is checked, and kept as text outside of the heap once there is much of it. What stays in
// memory is a table of hashes per kind of name: eight bytes for each name. A look-up finds the elements with the hash
// of a name, and compares the name itself. The hash has a random seed, so names that collide cannot be chosen. The
// cost is one decoding of an element per look-up, up to the bounds in budget.go. TestCatalogMemory shows the bound.
type Catalog struct {
	Entries, Layers int

	seed   maphash.Seed
	texts  spill
	spans  []span
	tables [tables]table
	used   budget
	// large are held while a large element is decoded and looked at. The use of an entry may look up layers, so those
	// have a lock of their own.
	large struct{ entries, layers sync.Mutex }
}

// largeElement is the size in bytes above which elements are decoded one at a time. Decoded, an element takes many
// times its size, and look-ups of many steps run at once.
const largeElement = 256 << 10

// The kinds of names.
const (
	byKey = iota
	byID
	byGroup
	byStep
	byLayer
	byMount
	tables
)

// refsOf is the number of names of an entry without aliases.
const refsOf = 4

// span is the text of one element.
type span struct {
	at   int64
	size int32
}

// ref leads from the hash of a name to an element.
type ref struct{ hash, span uint32 }

// table holds refs, sorted when the catalog is complete.
type table []ref

// maxSame bounds how many elements with one name are tried.
const maxSame = 64

// NewCatalog reads an index. The caller closes it.
func NewCatalog(r io.Reader, scratch func() (*os.File, error)) (*Catalog, error) {
	u, err := newUnpacker(r, maxText)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	defer u.close()
	c := &Catalog{seed: maphash.MakeSeed(), texts: spill{create: scratch}}
	if err := c.read(&elements{from: &gauge{r: u}}); err != nil {
		c.Close()
		return nil, fmt.Errorf("index: %w", err)
	}
	// Read to the end: only then the digest of the compressed bytes is verified.
	if _, err := io.Copy(io.Discard, r); err != nil {
		c.Close()
		return nil, err
	}
	for i := range c.tables {
		slices.SortFunc(c.tables[i], func(a, b ref) int {
			if a.hash != b.hash {
				return int(int64(a.hash) - int64(b.hash))
			}
			return int(int64(a.span) - int64(b.span))
		})
	}
	return c, nil
}

// Close frees the texts.
func (c *Catalog) Close() error { return c.texts.close() }

// read reads the lists of the index.
func (c *Catalog) read(in *elements) error {
	version := 0
	err := in.object(func(name string) error {
		switch name {
		case "Version":
			return in.value(&version)
		case "Entries":
			return in.list(c.addEntry)
		case "Layers":
			return in.list(c.addLayer)
		case "Mounts":
			return in.list(c.addMount)
		}
		return in.value(new(json.RawMessage))
	})
	if err == nil && version != indexVersion {
		err = fmt.Errorf("unsupported index version %d; this bake supports version %d", version, indexVersion)
	}
	return err
}

func (c *Catalog) addEntry(raw []byte) error {
	e := new(Entry)
	if err := json.Unmarshal(raw, e); err != nil {
		return err
	}
	if err := e.check(); err != nil {
		return err
	}
	if c.Entries++; c.Entries > maxEntries {
		return fmt.Errorf("%w: more than %d entries", errDamaged, maxEntries)
	}
	if err := c.keep(raw); err != nil {
		return err
	}
	c.name(byKey, e.Key.String())
	for _, k := range e.aliases() {
		c.name(byKey, k.String())
	}
	c.name(byID, e.ID.String())
	c.name(byStep, e.Step.String())
	if group, ok := GroupOf(&e.Entry); ok {
		c.name(byGroup, group.String())
	}
	return c.full()
}

func (c *Catalog) addLayer(raw []byte) error {
	l := new(Layer)
	if err := json.Unmarshal(raw, l); err != nil {
		return err
	}
	if err := l.check(); err != nil {
		return err
	}
	return c.addNamed(byLayer, l.ID.String(), raw)
}

func (c *Catalog) addMount(raw []byte) error {
	m := new(Mount)
	if err := json.Unmarshal(raw, m); err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return err
	}
	return c.addNamed(byMount, m.ID, raw)
}

func (c *Catalog) addNamed(kind int, name string, raw []byte) error {
	if c.Layers++; c.Layers > maxLayers {
		return fmt.Errorf("%w: more than %d layers", errDamaged, maxLayers)
	}
	if err := c.keep(raw); err != nil {
		return err
	}
	c.name(kind, name)
	return c.full()
}

// keep keeps the text of an element.
func (c *Catalog) keep(raw []byte) error {
	at, err := c.texts.add(raw)
	c.spans = append(c.spans, span{at, int32(len(raw))})
	return err
}

// name adds a name of the last element.
func (c *Catalog) name(kind int, name string) {
	c.tables[kind] = append(c.tables[kind], ref{c.hash(name), uint32(len(c.spans) - 1)})
}

func (c *Catalog) hash(name string) uint32 { return uint32(maphash.String(c.seed, name)) }

// full returns an error if there are too many names.
func (c *Catalog) full() error {
	n := 0
	for _, t := range c.tables {
		n += len(t)
	}
	if n > maxRefs {
		return fmt.Errorf("%w: more than %d names", errDamaged, maxRefs)
	}
	return nil
}

// element is the text of an element, and the number of its span.
type element struct {
	raw  []byte
	span uint32
}

func (e element) size() int64 { return int64(len(e.raw)) }

// find calls use with each element that may have a name, in the order of the index, until use returns true. Elements
// that were refused are left out.
func (c *Catalog) find(kind int, name string, use func(element) bool) {
	hash, t := c.hash(name), c.tables[kind]
	at := sort.Search(len(t), func(i int) bool { return t[i].hash >= hash })
	for tried := 0; at < len(t) && t[at].hash == hash && tried < maxSame; at, tried = at+1, tried+1 {
		number := t[at].span
		if !c.used.decode(number, int64(c.spans[number].size)) {
			continue
		}
		if c.look(kind, number, use) {
			return
		}
	}
}

// look calls use with an element and returns its answer.
func (c *Catalog) look(kind int, number uint32, use func(element) bool) bool {
	if c.spans[number].size > largeElement {
		lock := &c.large.entries
		if kind == byLayer || kind == byMount {
			lock = &c.large.layers
		}
		lock.Lock()
		defer lock.Unlock()
	}
	raw, err := c.texts.read(c.spans[number])
	return err == nil && use(element{raw, number})
}

// entries calls use with each entry that may have a name.
func (c *Catalog) entries(kind int, name digest.Digest, use func(*Entry, element) bool) {
	c.find(kind, name.String(), func(x element) bool {
		e := new(Entry)
		return json.Unmarshal(x.raw, e) == nil && use(e, x)
	})
}

// Entry returns the first entry with a key or alias that accept accepts, or nil. An entry that it refuses is not found
// again by Entry and Group.
func (c *Catalog) Entry(key digest.Digest, accept func(*Entry) bool) (found *Entry) {
	c.entries(byKey, key, func(e *Entry, x element) bool {
		switch {
		case e.Key != key && !slices.Contains(e.aliases(), key):
		case !accept(e):
			c.used.refuse(x.span)
		case c.used.keep(e.memory(x.size())):
			found = e
		}
		return found != nil
	})
	return found
}

// ByID returns the first entry with an id, or nil.
func (c *Catalog) ByID(id digest.Digest) (found *Entry) {
	c.entries(byID, id, func(e *Entry, _ element) bool {
		if e.ID == id {
			found = e
		}
		return found != nil
	})
	return found
}

// Latest returns the newest entry of a step definition, or nil.
func (c *Catalog) Latest(step digest.Digest) (found *Entry) {
	c.entries(byStep, step, func(e *Entry, _ element) bool {
		if e.Step == step && (found == nil || found.Created.Before(e.Created)) {
			found = e
		}
		return false
	})
	return found
}

// Group returns the entries of a group that accept accepts, at most maxSame and not much more than maxGroup bytes. An
// entry that it refuses is not found again by Entry and Group.
func (c *Catalog) Group(group digest.Digest, accept func(*Entry) bool) (all []*Entry) {
	size := int64(0)
	c.entries(byGroup, group, func(e *Entry, x element) bool {
		switch g, ok := GroupOf(&e.Entry); {
		case !ok || g != group:
		case !accept(e):
			c.used.refuse(x.span)
		default:
			all = append(all, e)
			size += e.memory(x.size())
		}
		return size > maxGroup
	})
	return all
}

// Layer returns the layer of an id; if there are several, the first with a blob. It returns nil if there is none.
func (c *Catalog) Layer(id digest.Digest) (found *Layer) {
	c.find(byLayer, id.String(), func(x element) bool {
		l := new(Layer)
		fits := json.Unmarshal(x.raw, l) == nil && l.ID == id && (found == nil || l.Blob != nil)
		if fits && c.used.keep(x.size()) {
			found = l
		}
		return found != nil && found.Blob != nil
	})
	if found != nil {
		found.setTypes()
	}
	return found
}

// Mount returns the first cache mount with an id, or nil.
func (c *Catalog) Mount(id string) (found *Mount) {
	c.find(byMount, id, func(x element) bool {
		m := new(Mount)
		if json.Unmarshal(x.raw, m) == nil && m.ID == id {
			found = m
		}
		return found != nil
	})
	if found != nil {
		found.setTypes()
	}
	return found
}

// gauge bounds what a decoder reads ahead of an element.
type gauge struct {
	r     io.Reader
	done  int64 // bytes
	limit int64 // of done
}

var errElement = errors.New("an entry or layer is too large")

func (g *gauge) Read(p []byte) (int, error) {
	if g.done >= g.limit {
		return 0, errElement
	}
	n, err := g.r.Read(p[:min(int64(len(p)), g.limit-g.done)])
	g.done += int64(n)
	return n, err
}

// elements decodes JSON, one element of a list at a time.
type elements struct {
	dec  *json.Decoder
	from *gauge
}

// next allows one more element to be read.
func (e *elements) next() {
	if e.dec == nil {
		e.dec = json.NewDecoder(e.from)
	}
	e.from.limit = e.dec.InputOffset() + maxElement
}

func (e *elements) token() (json.Token, error) {
	e.next()
	return e.dec.Token()
}

// value decodes a value.
func (e *elements) value(into any) error {
	e.next()
	return e.dec.Decode(into)
}

// object calls member for each member of an object, which must decode its value.
func (e *elements) object(member func(name string) error) error {
	if t, err := e.token(); err != nil || t != json.Delim('{') {
		return errors.Join(errDamaged, err)
	}
	for e.dec.More() {
		t, err := e.token()
		name, ok := t.(string)
		if err != nil || !ok {
			return errors.Join(errDamaged, err)
		}
		if err := member(name); err != nil {
			return err
		}
		e.next()
	}
	_, err := e.token()
	return err
}

// list calls use for each element of a list.
func (e *elements) list(use func(raw []byte) error) error {
	t, err := e.token()
	if err != nil || t == nil {
		return err // null: an empty list
	}
	if t != json.Delim('[') {
		return errDamaged
	}
	for e.next(); e.dec.More(); e.next() {
		var raw json.RawMessage
		if err := e.value(&raw); err != nil {
			return err
		}
		if len(raw) > maxElement || registry.JSONValues(raw) > maxValues {
			return errElement
		}
		if err := use(raw); err != nil {
			return err
		}
	}
	_, err = e.token()
	return err
}
