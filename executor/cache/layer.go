package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// LayerMeta describes a layer, without its files.
type LayerMeta struct {
	Size   int64 // bytes in regular files
	Files  int64 // files and directories, without the root
	Packed []Packed
}

// Packed describes a blob derived from a layer, usually its tar archive, compressed, as images refer to it. One layer
// may have several.
type Packed struct {
	Encoding  string `json:"Form"` // how the blob was produced, such as "gzip:1577836800"; "base" if by its registry
	DiffID    digest.Digest
	Digest    digest.Digest // of the blob
	Size      int64         // of the blob, bytes
	MediaType string
}

// layerRecord is the content of the file meta.json of a layer.
type layerRecord struct {
	Size, Files int64
	Archive     string `json:",omitempty"` // the SHA-256 digest of fs.tar, if the layer has one
}

// Draft is a layer under construction. FS becomes the layer's directory. Work is an empty directory on the same file
// system, which overlayfs needs. End a draft with Commit or Discard.
type Draft struct {
	FS, Work string
	store    *Store
	dir      string
}

func (s *Store) layerPath(id digest.Digest, parts ...string) string {
	return filepath.Join(append([]string{s.dir, dirLayers, id.Encoded()}, parts...)...)
}

// NewLayer starts a layer.
func (s *Store) NewLayer() (*Draft, error) {
	d := &Draft{store: s, dir: s.draftName()}
	d.FS, d.Work = filepath.Join(d.dir, "fs"), filepath.Join(d.dir, "work")
	for _, dir := range []string{d.dir, d.FS, d.Work} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, s.blame("create a layer in", err)
		}
	}
	// The mode of FS becomes the mode of "/" in file systems whose top layer this is.
	return d, wrap("create a layer in", d.dir, os.Chmod(d.FS, 0o755))
}

// Commit turns the draft into the layer id by one rename. If the layer already exists, the draft is discarded.
func (d *Draft) Commit(id digest.Digest, meta LayerMeta) error {
	s := d.store
	if s.HasLayer(id) {
		return d.Discard()
	}
	item, err := d.finish(id, meta)
	if err == nil {
		err = os.Rename(item, s.layerPath(id))
	}
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
		if s.HasLayer(id) {
			return errors.Join(removeTree(item), d.Discard())
		}
		// What is there is damaged: useLayer refuses it.
		if err = s.discard(s.layerPath(id)); err == nil {
			err = os.Rename(item, s.layerPath(id))
		}
	}
	if err == nil && item != d.dir {
		err = d.keepUnpacked(id)
	}
	if err != nil {
		return wrap("commit layer", s.layerPath(id), errors.Join(err, removeTree(item), d.Discard()))
	}
	s.added.Add(onDisk(meta.Size) + onDisk(1)*meta.Files)
	for _, p := range meta.Packed {
		if err := s.AddPacked(id, p); err != nil {
			return err
		}
	}
	return nil
}

// finish writes the layer's record and marks the layer as unsynced. It returns the directory that becomes the layer.
func (d *Draft) finish(id digest.Digest, meta LayerMeta) (item string, err error) {
	// overlayfs leaves a directory without permissions in Work.
	if err := removeTree(d.Work); err != nil {
		return d.dir, err
	}
	item, record := d.dir, layerRecord{Size: meta.Size, Files: meta.Files}
	if d.store.unpacked != nil {
		if item, record.Archive, err = d.archive(); err != nil {
			return item, err
		}
	}
	raw, err := json.Marshal(record)
	if err != nil {
		return item, err
	}
	if err := os.WriteFile(filepath.Join(item, "meta.json"), raw, 0o600); err != nil {
		return item, err
	}
	return item, d.store.mark("layer", id)
}

// Discard removes the draft.
func (d *Draft) Discard() error { return wrap("discard a layer in", d.dir, removeTree(d.dir)) }

// LayerDir returns the directory of a layer, which overlayfs may mount, and reports whether it exists. It marks the
// layer as used. It unpacks a layer that is kept as an archive; if that fails, MissingLayer says why.
func (s *Store) LayerDir(id digest.Digest) (string, bool) {
	if !s.HasLayer(id) {
		return "", false
	}
	return s.files(id)
}

// HasLayer reports whether a layer exists, and marks it as used. It unpacks nothing.
func (s *Store) HasLayer(id digest.Digest) bool {
	if err := s.gate.enter(); err != nil {
		return false
	}
	defer s.gate.leave()
	return id.Validate() == nil && s.useLayer(id)
}

// useLayers reports whether all own layers of an entry exist, and marks them as used. The caller holds the gate.
func (s *Store) useLayers(e *Entry) bool {
	for _, o := range e.Outputs {
		for _, p := range o.Parts {
			if p.Layer != "" && !s.useLayer(p.Layer) {
				return false
			}
		}
	}
	return true
}

// useLayer reports whether a layer exists, and marks it as used. The caller holds the gate.
func (s *Store) useLayer(id digest.Digest) bool {
	exists := s.unpacked == nil && isDir(s.layerPath(id, "fs")) || isRegular(s.layerPath(id, archiveFile))
	return exists && s.use(s.layerPath(id))
}

// use reports whether path exists and records the use: the modification time becomes now, unless it already lies after
// the start of this process. So an item used by a running process is never older than that process's lease. A time in
// the future, from a clock that was set back, is corrected.
func (s *Store) use(path string) bool {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return false
	}
	now := time.Now()
	if used := time.Unix(st.Mtim.Unix()); used.Before(s.started) || used.After(now.Add(clockSlack)) {
		if os.Chtimes(path, now, now) != nil {
			_, err := os.Lstat(path)
			return err == nil
		}
	}
	return true
}

// LayerMeta returns the description of a layer and reports whether anything is known. A layer may have blobs and no
// directory.
func (s *Store) LayerMeta(id digest.Digest) (LayerMeta, bool) {
	if id.Validate() != nil {
		return LayerMeta{}, false
	}
	var meta LayerMeta
	record, found := s.layerRecord(id)
	meta.Size, meta.Files = record.Size, record.Files
	names, err := os.ReadDir(s.packedPath(id))
	if err != nil {
		return meta, found
	}
	for _, n := range names {
		if p, ok := readPacked(filepath.Join(s.packedPath(id), n.Name())); ok {
			meta.Packed = append(meta.Packed, p)
			found = true
		}
	}
	return meta, found
}

// layerRecord reads meta.json of a layer.
func (s *Store) layerRecord(id digest.Digest) (layerRecord, bool) {
	var record layerRecord
	raw, err := readBounded(s.layerPath(id, "meta.json"), 1<<20)
	return record, err == nil && json.Unmarshal(raw, &record) == nil
}

// readPacked reads a Packed from its file and reports whether it is valid.
func readPacked(path string) (Packed, bool) {
	var p Packed
	raw, err := readBounded(path, 1<<20)
	return p, err == nil && json.Unmarshal(raw, &p) == nil && p.Digest.Validate() == nil && p.DiffID.Validate() == nil
}

func (s *Store) packedPath(id digest.Digest) string {
	hex := id.Encoded()
	return s.path(dirPacked, hex[:2], hex)
}

// AddPacked records a blob of a layer. It replaces an earlier one with the same Encoding.
func (s *Store) AddPacked(id digest.Digest, p Packed) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the record of a packed layer: %w", err)
	}
	name := digest.FromString(p.Encoding).Encoded()[:16] + ".json"
	path := filepath.Join(s.packedPath(id), name)
	return wrap("record a packed layer in", path, s.writeFile(path, raw))
}

// DropLayer removes the directory of a layer. No other process may have found the layer: the ID must be one that only
// this process knows.
func (s *Store) DropLayer(id digest.Digest) error {
	return wrap("remove", s.layerPath(id), s.dropLayer(id))
}

// dropLayer removes the directory of a layer. A missing one is not an error.
func (s *Store) dropLayer(id digest.Digest) error {
	aside := s.tempName()
	err := os.Rename(s.layerPath(id), aside)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.unpacked != nil {
		err = removeTree(s.unpackedPath(id))
	}
	return errors.Join(err, removeTree(aside))
}

// MeasureLayer counts the files in a layer's directory, without the root, and the bytes of its regular files.
func MeasureLayer(dir string) (LayerMeta, error) {
	var m LayerMeta
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		m.Files++
		if d.Type().IsRegular() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			m.Size += info.Size()
		}
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("measure layer: %w", err)
	}
	return m, nil
}
