package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
	"github.com/bakebuild/bake/executor/tree"
)

// Bounds of the lists of paths of imported layers. A layer whose list is larger than maxListMemory is unpacked where it
// is looked into; unpacking reads the list node by node. maxLists bounds what all views hold together.
const (
	maxListBlob   = 16 << 20 // bytes of a compressed list
	maxListText   = 128 << 20
	maxListMemory = 24 << 20 // bytes in memory
	maxLists      = 64 << 20
	maxKeptLists  = 16 << 20
)

// errLongList means that a layer must be unpacked because its list of paths takes too much memory.
var errLongList = errors.New("its list of paths is too long for a look-up")

// pathLists keeps lists that were read, up to maxKeptLists. It is guarded by imports.mu.
type pathLists struct {
	known map[digest.Digest]pathList
	kept  int64 // bytes
	lent  int64 // bytes of the lists that views hold
}

type pathList struct {
	index  *tree.Index
	memory int64
}

// readPaths passes the list of a layer's paths, an encoded tree.Index, to use. The list is not verified before use has
// returned, and is never in memory as a whole: a list of a megabyte can stand for a hundred.
func (b *build) readPaths(ctx context.Context, l importedLayer, use func(io.Reader) error) error {
	if l.Paths.Size > maxListBlob {
		return fmt.Errorf("paths: larger than %d bytes", maxListBlob)
	}
	return b.streamImported(ctx, l.from, *l.Paths, func(r io.Reader) error {
		return remotecache.Decompress(r, maxListText, use)
	})
}

// pathsOf lends the list of an imported layer's paths, which answers lookups without the layer. The caller gives the
// memory back with imports.giveLists. It returns errLongList if the layer must be unpacked.
func (b *build) pathsOf(ctx context.Context, id digest.Digest) (pathList, error) {
	l, err := b.importedLayer(id)
	if err != nil {
		return pathList{}, err
	}
	c := b.imports
	list, ok := c.knownList(id)
	if !ok {
		list, err = b.decodePaths(ctx, l)
		if errors.Is(err, tree.ErrIndexTooLarge) {
			return pathList{}, errLongList
		}
		if err != nil {
			return pathList{}, b.lost(ctx, l, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paths.lent+list.memory > maxLists {
		return pathList{}, errLongList
	}
	c.paths.lent += list.memory
	return list, nil
}

func (c *imports) knownList(id digest.Digest) (pathList, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, ok := c.paths.known[id]
	return list, ok
}

// giveLists gives back the memory of lists that pathsOf lent.
func (c *imports) giveLists(memory int64) {
	if memory == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paths.lent -= memory
}

// decodePaths reads and keeps a list. One is decoded at a time.
func (b *build) decodePaths(ctx context.Context, l importedLayer) (pathList, error) {
	c := b.imports
	c.decoding.Lock()
	defer c.decoding.Unlock()
	if list, ok := c.knownList(l.id); ok {
		return list, nil
	}
	list := pathList{index: new(tree.Index)}
	err := b.readPaths(ctx, l, func(r io.Reader) (err error) {
		list.memory, err = list.index.Decode(r, maxListMemory)
		return err
	})
	if err != nil {
		return pathList{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.paths
	if p.kept+list.memory > maxKeptLists {
		p.known, p.kept = nil, 0
	}
	if p.known == nil {
		p.known = map[digest.Digest]pathList{}
	}
	p.known[l.id] = list
	p.kept += list.memory
	return list, nil
}

// agreement compares the records of an unpacked tar with the nodes of a list, which come in the order of their paths.
// Everything except times must be equal: look-ups were answered from the list before the layer was here.
type agreement struct {
	records []layers.Record
	at      int
	// links maps the number of each file with several names in the tar to that in the list, and back.
	links, back map[uint64]uint64
}

func newAgreement(records []layers.Record) *agreement {
	sorted := slices.Clone(records)
	slices.SortFunc(sorted, func(a, b layers.Record) int { return strings.Compare(a.Path, b.Path) })
	return &agreement{records: sorted, links: map[uint64]uint64{}, back: map[uint64]uint64{}}
}

// next reports whether the next record agrees with n.
func (a *agreement) next(n tree.Node) bool {
	if a.at == len(a.records) {
		return false
	}
	r := a.records[a.at]
	a.at++
	if r.Path != n.Entry.Path {
		return false
	}
	if r.Path == "/" {
		return plainRoot(n) && (r.Implied || agrees(r, n))
	}
	return agrees(r, n) && a.linked(r, n)
}

// plainRoot reports whether a node is a directory that a layer can have as its root. An export writes no root into the
// tar, so the list alone says its mode and owner, which likeNode sets. It sets nothing else, so nothing else may be
// there: a look-up would see what the unpacked layer lacks.
func plainRoot(n tree.Node) bool {
	e := n.Entry
	return !n.Whiteout && !n.Opaque && e.Mode&^0o7777 == unix.S_IFDIR && e.Link == "" && e.Rdev == 0 &&
		len(kept(n.Xattrs)) == 0
}

// done reports whether all records were compared.
func (a *agreement) done() bool { return a.at == len(a.records) }

// linked reports whether the names of one file in the tar are those of one file in the list.
func (a *agreement) linked(r layers.Record, n tree.Node) bool {
	if r.Whiteout || r.Mode&unix.S_IFMT != unix.S_IFREG || r.Nlink < 2 && n.Entry.Nlink < 2 {
		return true
	}
	if r.Nlink < 2 || n.Entry.Nlink < 2 {
		return false
	}
	there, seen := a.links[r.Inode]
	here, seenBack := a.back[n.Entry.Inode]
	a.links[r.Inode], a.back[n.Entry.Inode] = n.Entry.Inode, r.Inode
	return seen == seenBack && (!seen || there == n.Entry.Inode && here == r.Inode)
}

// agrees reports whether the list and the tar agree about a path, except for times and links.
func agrees(r layers.Record, n tree.Node) bool {
	e := n.Entry
	if r.Whiteout || n.Whiteout {
		return r.Whiteout == n.Whiteout
	}
	return r.Mode == e.Mode && r.UID == e.UID && r.GID == e.GID && r.Size == e.Size &&
		r.Link == e.Link && r.Opaque == n.Opaque && r.Rdev == e.Rdev &&
		maps.EqualFunc(kept(r.Xattrs), kept(n.Xattrs), bytes.Equal)
}

// kept returns the attributes that a copy keeps.
func kept(all map[string][]byte) map[string][]byte {
	of := maps.Clone(all)
	maps.DeleteFunc(of, func(name string, _ []byte) bool { return !tree.Kept(name) })
	return of
}
