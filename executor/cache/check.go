package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Damage is one defect found by Check.
type Damage struct {
	Path string
	What string
}

// CheckOptions selects what Check does.
type CheckOptions struct {
	// Repair removes what is damaged. A later build that needs it produces it again.
	Repair bool
	// Layer compares the directory of a layer with its recorded content. Check itself compares only the number and
	// size of files. Layer returns a description of the damage, or "". It may be nil.
	Layer func(ctx context.Context, dir string, meta LayerMeta) (what string, err error)
	// Base compares the directory of a base layer with the blob that it was unpacked from, if that is still here. blob
	// is its path. It may be nil.
	Base func(ctx context.Context, dir, blob string, p Packed) (what string, err error)
}

// Check reads every blob, layer, entry and image, and returns the damage found.
func (s *Store) Check(ctx context.Context, o CheckOptions) ([]Damage, error) {
	c := checker{s: s, o: o, bases: s.baseLayers()}
	for _, part := range []func(context.Context) error{c.blobs, c.layers, c.claimed, c.entries, c.images} {
		if err := part(ctx); err != nil {
			return c.found, err
		}
	}
	if !o.Repair || len(c.found) == 0 {
		return c.found, nil
	}
	l, err := s.leases(true)
	if err != nil {
		return c.found, err
	}
	_, err = s.sweep(l)
	return c.found, errors.Join(err, s.forgetLedger())
}

type checker struct {
	s     *Store
	o     CheckOptions
	found []Damage
	bases map[digest.Digest]Packed // blobs of base layers, by the ids of the layers
}

// damaged records damage, and removes the damaged file or directory if Repair is set.
func (c *checker) damaged(path, what string) error {
	c.found = append(c.found, Damage{path, what})
	if !c.o.Repair {
		return nil
	}
	aside := c.s.tempName()
	// Remove it even if it is in use: its users work with damaged content.
	moved, err := c.s.moveAside(path, aside, time.Now())
	if err != nil || !moved {
		return wrap("remove", path, err)
	}
	return wrap("remove", path, removeTree(aside))
}

// each calls f for each name in a directory of the cache.
func (c *checker) each(ctx context.Context, dir string, f func(path, name string) error) error {
	names, err := os.ReadDir(c.s.path(dir))
	if err != nil {
		return wrap("list", c.s.path(dir), err)
	}
	for _, n := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := f(c.s.path(dir, n.Name()), n.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) blobs(ctx context.Context) error {
	return c.each(ctx, dirBlobs, func(path, name string) error {
		d := digest.NewDigestFromEncoded(digest.SHA256, name)
		whole, err := matchesDigest(path, d)
		if isCorrupt(err) {
			return c.damaged(path, fmt.Sprintf("cannot be read: %v", cause(err)))
		}
		if err != nil {
			return wrap("read", path, err)
		}
		if whole && d.Validate() == nil {
			return nil
		}
		return c.damaged(path, fmt.Sprintf("content does not match digest %s", d))
	})
}

// layers compares the directory of each layer with its record, and with CheckOptions.Layer.
func (c *checker) layers(ctx context.Context) error {
	return c.each(ctx, dirLayers, func(path, name string) error {
		what, err := c.layer(ctx, digest.NewDigestFromEncoded(digest.SHA256, name))
		if _, statErr := os.Lstat(path); errors.Is(statErr, os.ErrNotExist) {
			return nil // evicted by another process meanwhile
		}
		if err != nil || what == "" {
			return err
		}
		return c.damaged(path, what)
	})
}

func (c *checker) layer(ctx context.Context, id digest.Digest) (what string, err error) {
	if id.Validate() != nil {
		return "its name is not a digest", nil
	}
	record, ok := c.s.layerRecord(id)
	if !ok {
		return "its record (meta.json) cannot be read", nil
	}
	dir, done, err := c.s.checkedDir(id)
	if errors.Is(err, os.ErrNotExist) {
		return "its files are missing", nil
	}
	if err == nil {
		what, err = c.files(ctx, id, dir, record)
		err = errors.Join(err, done())
	}
	if isCorrupt(err) {
		return fmt.Sprintf("cannot be read: %v", cause(err)), nil
	}
	return what, wrap("read", c.s.layerPath(id), err)
}

// files compares the files of a layer with its record and with what else is recorded about them.
func (c *checker) files(ctx context.Context, id digest.Digest, dir string, record layerRecord) (string, error) {
	got, err := MeasureLayer(dir)
	if err != nil {
		return "", err
	}
	if got.Files != record.Files || got.Size != record.Size {
		const text = "has %d files with %d bytes, expected %d with %d"
		return fmt.Sprintf(text, got.Files, got.Size, record.Files, record.Size), nil
	}
	meta, _ := c.s.LayerMeta(id)
	base, ok := c.bases[id]
	for _, p := range meta.Packed {
		if p.Encoding == EncodingBase {
			base, ok = p, true
		}
	}
	if ok && c.o.Base != nil && c.s.HasBlob(base.Digest, base.Size) {
		return c.o.Base(ctx, dir, c.s.BlobPath(base.Digest), base)
	}
	if c.o.Layer == nil {
		return "", nil
	}
	return c.o.Layer(ctx, dir, meta)
}

// isCorrupt reports whether a read failed because of the state of the disk, not because of permissions or the caller.
// No later read will succeed.
func isCorrupt(err error) bool {
	corrupt := []error{unix.EIO, unix.EBADMSG, unix.EUCLEAN, unix.EISDIR, unix.ENOTDIR, unix.ELOOP, errDamaged}
	return slices.ContainsFunc(corrupt, func(one error) bool { return errors.Is(err, one) })
}

// cause returns the error of the operating system, without the path.
func cause(err error) error {
	if e := new(os.PathError); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// claimed checks that the entries of each remote cache are in a directory with its name.
func (c *checker) claimed(ctx context.Context) error {
	return c.each(ctx, dirClaimed, func(path, name string) error {
		info, err := os.Lstat(path)
		if err != nil {
			return nil // removed meanwhile
		}
		if !info.IsDir() {
			return c.damaged(path, "not a directory")
		}
		at := filepath.Join(path, fileOrigin)
		raw, err := readBounded(at, maxOrigin)
		if errors.Is(err, os.ErrNotExist) || err == nil && digest.FromBytes(raw).Encoded() == name {
			return nil // without the name, it is written with the next entry
		}
		return c.damaged(at, "the name of the remote cache is damaged")
	})
}

func (c *checker) entries(ctx context.Context) error {
	var dirs []string
	for _, t := range c.s.entrySets() {
		dirs = append(dirs, filepath.Join(t.root, dirEntries), filepath.Join(t.root, dirCandidates))
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil || d.IsDir() {
				return nil
			}
			if _, ok := c.s.readEntry(path); ok {
				return nil
			}
			if _, err := os.Lstat(path); err != nil {
				return nil // removed meanwhile
			}
			return c.damaged(path, "the entry is damaged")
		})
		if err != nil {
			return wrap("read", dir, err)
		}
	}
	return nil
}

// images verifies that the blobs of all named images exist. The layers of base images may be missing: they can be
// pulled.
func (c *checker) images(ctx context.Context) error {
	index, err := c.s.readIndex()
	if c.s.isDamage(err) {
		c.found = append(c.found, Damage{c.s.indexPath(), fmt.Sprintf("the list of images: %v", cause(err))})
		if index, _, err = c.s.copiedIndex(); err != nil {
			err = nil // no name is left
		}
		if c.o.Repair {
			index, err = c.s.index()
		}
	}
	if err != nil {
		return wrap("read the list of images", c.s.indexPath(), err)
	}
	images := imagesOf(index)
	for _, image := range images {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		missing := c.s.missing(image.Digest, image.Kind != KindBase)
		if missing == "" {
			continue
		}
		c.found = append(c.found, Damage{image.Name, fmt.Sprintf("its blob %s is missing", missing)})
		if !c.o.Repair {
			continue
		}
		if _, err := c.s.removeImageIfSame(image); err != nil {
			return err
		}
	}
	return nil
}

// missing returns a blob that an image needs and the store lacks, or "". An index is complete if at least one of its
// platforms is.
func (s *Store) missing(d digest.Digest, layers bool) digest.Digest {
	m, ok := s.readManifest(d)
	if !ok {
		return d
	}
	var first digest.Digest
	for _, child := range m.Manifests {
		lacks := s.missing(child.Digest, layers)
		if lacks == "" {
			return ""
		}
		if first == "" {
			first = lacks
		}
	}
	need := []digest.Digest{}
	if m.Config != nil {
		need = append(need, m.Config.Digest)
	}
	for _, l := range m.Layers {
		if layers {
			need = append(need, l.Digest)
		}
	}
	for _, d := range need {
		if _, err := os.Lstat(s.BlobPath(d)); err != nil {
			return d
		}
	}
	return first
}
