// Package remotecache reads and writes caches outside this machine: an index of entries, and the layers and cache
// mounts of those entries, in a few files of a directory or as an artifact in a registry. What it reads is not
// trusted: every blob is verified against its digest and size, and the size of the index and the counts in it have
// bounds.
package remotecache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
)

// Source is a cache to import from. Call Index first.
type Source interface {
	// Index reads the index; nil if there is no cache yet. scratch creates a file without a name for what is too large
	// for memory.
	Index(ctx context.Context, scratch func() (*os.File, error)) (*Catalog, error)
	// Open opens a blob of the index. Read it to io.EOF: only the last read verifies the digest, and fails if the bytes
	// do not match it.
	Open(ctx context.Context, b Blob) (io.ReadCloser, error)
	// String returns the place as a user writes it.
	String() string
	io.Closer
}

// Destination is a place to export to. An export replaces the cache that was there.
type Destination interface {
	Export(ctx context.Context, e Export) error
	String() string
}

// Export is a cache to be written.
type Export struct {
	Index *Index
	// Open opens a blob of the index. It is called for the blobs that the place lacks, concurrently.
	Open func(ctx context.Context, b Blob) (io.ReadCloser, error)
	// Distrust reports whether a blob was found damaged or missing at the place, although the place seems to have it.
	// It may be nil.
	Distrust func(digest.Digest) bool
}

// distrusts reports whether one of the blobs must be written again although the place seems to have it.
func (e *Export) distrusts(blobs []Blob) bool {
	return e.Distrust != nil && slices.ContainsFunc(blobs, func(b Blob) bool { return e.Distrust(b.Digest) })
}

// Index is the content of a cache. Equal indexes have equal bytes.
type Index struct {
	Version int
	Entries []Entry
	Layers  []Layer
	Mounts  []Mount `json:",omitempty"`
}

// indexVersion is the version of Index. Other versions are not read.
const indexVersion = 1

// Entry is the result of a step, and further keys that lead to it.
type Entry struct {
	cache.Entry
	Aliases []digest.Digest `json:",omitempty"`
}

// aliases returns the aliases that are used. The key of an entry without parts is not verified, so it has none: any
// cache can give such an entry any names.
func (e *Entry) aliases() []digest.Digest {
	if len(e.Inputs) == 0 {
		return nil
	}
	return e.Aliases
}

// Blob identifies bytes.
type Blob struct {
	Digest digest.Digest
	Size   int64
	// MediaType is written for readers of an index; an import derives it again, see setTypes.
	MediaType string
}

// Layer is a layer of entries.
type Layer struct {
	ID digest.Digest
	// Blob is the packed layer; nil if it was not exported. The step must run again where such a layer is needed.
	Blob   *Blob         `json:",omitempty"`
	DiffID digest.Digest `json:",omitempty"`
	// Encoding is that of Blob, see cache.Packed. Form is the stored name: renaming it would break version 1.
	Encoding string `json:"Form,omitempty"`
	// Paths is the layer's path index, compressed with zstd. It answers lookups, and holds the file times that Blob
	// lacks.
	Paths *Blob `json:",omitempty"`
	// Packed are all encodings that the layer is known to have.
	Packed []cache.Packed `json:",omitempty"`
}

// Mount is the content of a cache mount. Its Layer has no ID.
type Mount struct {
	ID string
	Layer
}

// Media types of blobs other than layers.
const (
	mediaIndex = "application/vnd.bake.cache.index.v1+zstd"
	MediaPaths = "application/vnd.bake.cache.paths.v1+zstd"
	MediaMount = "application/vnd.bake.cache.mount.v1.tar+zstd"
)

// sortParts sorts the index, so that equal indexes have equal bytes.
func (x *Index) sortParts() {
	for i := range x.Entries {
		e := &x.Entries[i]
		e.Selections = slices.Clone(e.Selections)
		slices.SortFunc(e.Selections, func(a, b cache.Selection) int { return cmp.Compare(a.Name, b.Name) })
		slices.Sort(e.Aliases)
	}
	slices.SortFunc(x.Entries, func(a, b Entry) int { return cmp.Compare(a.Key, b.Key) })
	slices.SortFunc(x.Layers, func(a, b Layer) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(x.Mounts, func(a, b Mount) int { return cmp.Compare(a.ID, b.ID) })
}

// check checks an entry of an index: digests, and the key over its parts. The key of an entry without parts, and an
// alias, cannot be verified.
func (e *Entry) check() error {
	if e.Entry.Validate() != nil || e.Step != "" && e.Step.Validate() != nil {
		return fmt.Errorf("%w: entry %.80q", errDamaged, e.Name)
	}
	if len(e.Inputs) > 0 && key.Of(e.Inputs) != e.Key {
		return fmt.Errorf("%w: entry %.80q has a key that does not match its parts", errDamaged, e.Name)
	}
	if err := e.Fits(); err != nil {
		return err
	}
	for _, a := range e.Aliases {
		if a.Validate() != nil {
			return errDamaged
		}
	}
	return nil
}

var errDamaged = errors.New("the index is damaged")

// check checks the digests and sizes of a layer. Code that names packs and verifies blobs relies on it: an invalid
// digest would panic there.
func (l *Layer) check() error {
	if l.ID.Validate() != nil || !l.ok() || !l.short() {
		return fmt.Errorf("%w: layer %.80q", errDamaged, l.ID)
	}
	if _, ok := algorithmOf(l.Encoding); l.Blob != nil && !ok {
		return fmt.Errorf("%w: layer %.80q has the unknown encoding %.80q", errDamaged, l.ID, l.Encoding)
	}
	return nil
}

// check checks a cache mount.
func (m *Mount) check() error {
	if m.Blob == nil || !m.ok() || !m.short() || len(m.ID) > maxName {
		return fmt.Errorf("%w: cache mount %.80q", errDamaged, m.ID)
	}
	return nil
}

// GroupOf returns the group key of a file operation's entry: its final key without the parent.
func GroupOf(e *cache.Entry) (digest.Digest, bool) {
	if !slices.Contains(e.Inputs, key.Part{Name: "kind", Digest: "file"}) {
		return "", false
	}
	own := slices.DeleteFunc(slices.Clone(e.Inputs), func(i key.Part) bool { return i.Name == "parent" })
	return key.Of(own), true
}

// ok reports whether all digests of a layer are valid and all sizes possible, with or without Blob.
func (l *Layer) ok() bool {
	for _, p := range l.Packed {
		if p.Digest.Validate() != nil || p.DiffID.Validate() != nil || p.Size < 0 {
			return false
		}
	}
	if l.Blob == nil {
		return (l.DiffID == "" || l.DiffID.Validate() == nil) && (l.Paths == nil || l.Paths.ok())
	}
	return l.DiffID.Validate() == nil && l.Paths != nil && l.Blob.ok() && l.Paths.ok()
}

func (b *Blob) ok() bool {
	return b.Digest.Validate() == nil && b.Digest.Algorithm() == digest.SHA256 && b.Size >= 0 && b.Size <= maxBlob
}

// blobs returns the blobs of the index, each once, by the kind of pack that stores them.
func (x *Index) blobs() (layers, paths, mounts []Blob) {
	seen := map[digest.Digest]bool{}
	add := func(to *[]Blob, b *Blob) {
		if b != nil && !seen[b.Digest] {
			seen[b.Digest] = true
			*to = append(*to, *b)
		}
	}
	for _, l := range x.Layers {
		add(&layers, l.Blob)
		add(&paths, l.Paths)
	}
	for _, m := range x.Mounts {
		add(&mounts, m.Blob)
		add(&paths, m.Paths)
	}
	for _, list := range [][]Blob{layers, paths, mounts} {
		slices.SortFunc(list, func(a, b Blob) int { return cmp.Compare(a.Digest, b.Digest) })
	}
	return layers, paths, mounts
}

// checked reads the bytes of a blob. The read that finds a wrong size or digest fails.
type checked struct {
	io.Reader
	io.Closer
	blob   Blob
	verify digest.Verifier
	left   int64
}

func newChecked(r io.Reader, c io.Closer, b Blob) *checked {
	return &checked{Reader: r, Closer: c, blob: b, verify: b.Digest.Verifier(), left: b.Size}
}

// DamagedError means that the bytes of a blob do not match its digest.
type DamagedError struct{ Digest digest.Digest }

// Error implements error.
func (e *DamagedError) Error() string { return fmt.Sprintf("blob %s is damaged", e.Digest) }

// MissingError means that a cache lacks a blob that its index names.
type MissingError struct {
	Digest digest.Digest
	Where  string // such as "the directory"
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("blob %s is no longer in %s", e.Digest, e.Where)
}

// Unusable returns the blob that is damaged or missing at its source, if err says so. Reading it again would not
// help.
func Unusable(err error) (d digest.Digest, ok bool) {
	if bad := new(DamagedError); errors.As(err, &bad) {
		return bad.Digest, true
	}
	if gone := new(MissingError); errors.As(err, &gone) {
		return gone.Digest, true
	}
	return "", false
}

// Read implements io.Reader.
func (c *checked) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.left -= int64(n)
	_, _ = c.verify.Write(p[:n])
	if c.left < 0 || err == io.EOF && (c.left > 0 || !c.verify.Verified()) {
		return 0, &DamagedError{c.blob.Digest}
	}
	return n, err
}
