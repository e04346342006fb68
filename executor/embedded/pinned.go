package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// pinnedFile is the only file of a layer, and the digest that its content must have.
type pinnedFile struct {
	name    string
	content digest.Digest
}

// encodingFile is recorded for a layer from elsewhere whose file was verified. Its Digest is that of the file.
const encodingFile = "file "

// pin states the content of a file in a layer of a remote cache, as ADD --checksum does. It is verified now, or when
// the layer is unpacked. A layer with another file is lost; from is the cache that serves it.
func (b *build) pin(from *source, id digest.Digest, name string, content digest.Digest) error {
	c := b.imports
	c.mu.Lock()
	c.pinned[id] = pinnedFile{name, content}
	c.mu.Unlock()
	dir, here := b.store.LayerDir(id)
	if b.dry || !here {
		return nil
	}
	meta, _ := b.store.LayerMeta(id)
	for _, p := range meta.Packed {
		if p.Encoding == encodingFile+name && p.Digest == content {
			return nil
		}
	}
	if err := c.checkPinned(id, dir); err != nil {
		return c.lose(importedLayer{Layer: remotecache.Layer{ID: id}, id: id, from: from}, err)
	}
	return b.store.AddPacked(id, cache.Packed{Encoding: encodingFile + name, DiffID: content, Digest: content})
}

// checkPinned verifies the file of a layer that pin named.
func (c *imports) checkPinned(id digest.Digest, dir string) error {
	c.mu.Lock()
	want, ok := c.pinned[id]
	c.mu.Unlock()
	if !ok {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Lstat(want.name)
	if err != nil || !info.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("it has no file %s", want.name), err)
	}
	f, err := root.Open(want.name)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := want.content.Algorithm().Digester()
	if _, err := io.Copy(hash.Hash(), f); err != nil {
		return err
	}
	if got := hash.Digest(); got != want.content {
		return fmt.Errorf("%s: %w", want.name, errMismatch(want.content, got))
	}
	return nil
}
