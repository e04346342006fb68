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

// Damage is one thing that a check found wrong.
type Damage struct {
	Path string
	What string
}

// CheckOptions says how a check goes about it.
type CheckOptions struct {
	// Repair removes what is damaged: it is made again when a build needs it.
	Repair bool
	// Layer compares the directory form of a layer with what is known of its content, beyond the number and size of its
	// files; what is the damage, empty when there is none. It may be nil.
	Layer func(ctx context.Context, dir string, meta LayerMeta) (what string, err error)
}

// Check reads every blob, layer and entry and says what is damaged.
func (s *Store) Check(ctx context.Context, o CheckOptions) ([]Damage, error) {
	c := checker{s: s, o: o}
	for _, part := range []func(context.Context) error{c.blobs, c.layers, c.entries, c.images} {
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
}

// damaged notes a damage, and takes it away where that is asked for.
func (c *checker) damaged(path, what string) error {
	c.found = append(c.found, Damage{path, what})
	if !c.o.Repair {
		return nil
	}
	aside := c.s.tempName()
	// Whoever uses it now uses something damaged: how recent that was is no reason to keep it.
	moved, err := c.s.moveAside(path, aside, time.Now())
	if err != nil || !moved {
		return wrap("remove", path, err)
	}
	return wrap("remove", path, removeTree(aside))
}

// each calls f for everything in a folder.
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
			return c.damaged(path, fmt.Sprintf("it cannot be read: %v", cause(err)))
		}
		if err != nil {
			return wrap("read", path, err)
		}
		if whole && d.Validate() == nil {
			return nil
		}
		return c.damaged(path, fmt.Sprintf("its bytes have not the digest %s", d))
	})
}

// layers compares each directory form with the numbers that were recorded when it was made, and with more if asked.
func (c *checker) layers(ctx context.Context) error {
	return c.each(ctx, dirLayers, func(path, name string) error {
		what, err := c.layer(ctx, digest.NewDigestFromEncoded(digest.SHA256, name))
		if _, statErr := os.Lstat(path); errors.Is(statErr, os.ErrNotExist) {
			return nil // a collection took it meanwhile
		}
		if err != nil || what == "" {
			return err
		}
		return c.damaged(path, what)
	})
}

func (c *checker) layer(ctx context.Context, id digest.Digest) (string, error) {
	if id.Validate() != nil {
		return "its name is no digest", nil
	}
	record, ok := c.s.layerRecord(id)
	if !ok {
		return "what was recorded of it cannot be read", nil
	}
	got, err := MeasureLayer(c.s.layerPath(id, "fs"))
	if errors.Is(err, os.ErrNotExist) {
		return "its files are not there", nil
	}
	if isCorrupt(err) {
		return fmt.Sprintf("it cannot be read: %v", cause(err)), nil
	}
	if err != nil {
		return "", wrap("read", c.s.layerPath(id), err)
	}
	if got.Files != record.Files || got.Size != record.Size {
		return fmt.Sprintf("it has %d files of %d bytes, and was made with %d of %d", got.Files, got.Size, record.Files, record.Size), nil
	}
	if c.o.Layer == nil {
		return "", nil
	}
	meta, _ := c.s.LayerMeta(id)
	what, err := c.o.Layer(ctx, c.s.layerPath(id, "fs"), meta)
	if isCorrupt(err) {
		return fmt.Sprintf("it cannot be read: %v", cause(err)), nil
	}
	return what, err
}

// isCorrupt says whether a read failed for what the disk holds, and not for who reads it or how: nobody will be able to.
func isCorrupt(err error) bool {
	return slices.ContainsFunc([]error{unix.EIO, unix.EBADMSG, unix.EUCLEAN, unix.EISDIR}, func(one error) bool { return errors.Is(err, one) })
}

// cause is what the system said, without the path.
func cause(err error) error {
	if e := new(os.PathError); errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (c *checker) entries(ctx context.Context) error {
	for _, dir := range []string{dirEntries, dirCandidates} {
		err := filepath.WalkDir(c.s.path(dir), func(path string, d os.DirEntry, err error) error {
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
				return nil // it went meanwhile
			}
			return c.damaged(path, "it is no whole entry")
		})
		if err != nil {
			return wrap("read", c.s.path(dir), err)
		}
	}
	return nil
}

// images checks that what the names stand for is there, of images that were built or loaded here: of bases, layers may be
// missing.
func (c *checker) images(ctx context.Context) error {
	images, err := c.s.Images()
	if err != nil {
		// Names are lost with their list; nothing else has them.
		return c.damaged(c.s.indexPath(), "the list of images cannot be read")
	}
	for _, image := range images {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		missing := c.s.missing(image.Digest, image.Kind != KindBase)
		if missing == "" {
			continue
		}
		c.found = append(c.found, Damage{image.Name, fmt.Sprintf("its blob %s is not there", missing)})
		if !c.o.Repair {
			continue
		}
		if _, err := c.s.removeImageIfSame(image); err != nil {
			return err
		}
	}
	return nil
}

// missing is a blob that an image needs and the store lacks. Of an index, the platforms that are not here are not missed
// as long as one is.
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
