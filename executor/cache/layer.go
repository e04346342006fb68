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

// LayerMeta is what is known of a layer beside its files.
type LayerMeta struct {
	Size   int64 // bytes of content
	Files  int64
	Packed []Packed
}

// Packed is a form of a layer that images ship.
type Packed struct {
	Encoding  string `json:"Form"` // how it was packed, such as "gzip:1577836800"; "base" for a layer as its registry has it
	DiffID    digest.Digest
	Digest    digest.Digest // of the blob
	Size      int64         // of the blob, bytes
	MediaType string
}

// layerRecord is the file meta.json of a layer.
type layerRecord struct {
	Size, Files int64
}

// Draft is a layer that is being made: FS becomes the layer's directory form, Work is an empty folder on the same file
// system, as overlayfs needs one. Commit or Discard ends it.
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
	d := &Draft{store: s, dir: s.tempName()}
	d.FS, d.Work = filepath.Join(d.dir, "fs"), filepath.Join(d.dir, "work")
	for _, dir := range []string{d.dir, d.FS, d.Work} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, wrap("make a layer in", s.tmp, err)
		}
	}
	// The mode of FS is the mode of "/" in what stands on the layer.
	return d, wrap("make a layer in", s.tmp, os.Chmod(d.FS, 0o755))
}

// Commit makes the draft the layer id by one rename. A layer with this id that is there already is kept.
func (d *Draft) Commit(id digest.Digest, meta LayerMeta) error {
	s := d.store
	if _, ok := s.LayerDir(id); ok {
		return d.Discard()
	}
	err := d.finish(id, meta)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) {
		return d.Discard()
	}
	if err != nil {
		return wrap("commit layer", s.layerPath(id), errors.Join(err, d.Discard()))
	}
	s.added.Add(onDisk(meta.Size) + onDisk(1)*meta.Files)
	for _, p := range meta.Packed {
		if err := s.AddPacked(id, p); err != nil {
			return err
		}
	}
	return nil
}

func (d *Draft) finish(id digest.Digest, meta LayerMeta) error {
	// overlayfs leaves a folder in Work that its own mount made unreadable.
	if err := removeTree(d.Work); err != nil {
		return err
	}
	raw, err := json.Marshal(layerRecord{meta.Size, meta.Files})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "meta.json"), raw, 0o600); err != nil {
		return err
	}
	if err := d.store.mark("layer", id); err != nil {
		return err
	}
	return os.Rename(d.dir, d.store.layerPath(id))
}

// Discard drops the draft.
func (d *Draft) Discard() error { return wrap("discard a layer in", d.store.tmp, removeTree(d.dir)) }

// LayerDir is the directory form of a layer, when it is there and whole.
func (s *Store) LayerDir(id digest.Digest) (string, bool) {
	if err := s.gate.enter(); err != nil {
		return "", false
	}
	defer s.gate.leave()
	if id.Validate() != nil || !s.useLayer(id) {
		return "", false
	}
	return s.layerPath(id, "fs"), true
}

// useLayers says whether all own layers of an entry are there, and counts them as used. The gate is held.
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

// useLayer says whether a layer is there, and counts it as used. The gate is held.
func (s *Store) useLayer(id digest.Digest) bool {
	return s.use(s.layerPath(id))
}

// use says whether path exists, and gives it the time of now as its last use unless it was used since this process
// started: what a running process uses is never older than its lease. A time in the future, of a clock that was set back,
// is none.
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

// LayerMeta reads what is known of a layer. A layer may have packed forms and no directory form.
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

func (s *Store) layerRecord(id digest.Digest) (layerRecord, bool) {
	var record layerRecord
	raw, err := readBounded(s.layerPath(id, "meta.json"), 1<<20)
	return record, err == nil && json.Unmarshal(raw, &record) == nil
}

// readPacked reads the record of a packed form.
func readPacked(path string) (Packed, bool) {
	var p Packed
	raw, err := readBounded(path, 1<<20)
	return p, err == nil && json.Unmarshal(raw, &p) == nil && p.Digest.Validate() == nil && p.DiffID.Validate() == nil
}

func (s *Store) packedPath(id digest.Digest) string {
	hex := id.Encoded()
	return s.path(dirPacked, hex[:2], hex)
}

// AddPacked records a packed form of a layer, replacing an earlier one of the same Form.
func (s *Store) AddPacked(id digest.Digest, p Packed) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode a packed layer: %w", err)
	}
	name := digest.FromString(p.Encoding).Encoded()[:16] + ".json"
	path := filepath.Join(s.packedPath(id), name)
	return wrap("record a packed layer in", path, s.writeFile(path, raw))
}

// DropLayer removes the directory form of a layer that nobody else can have found: its id is of this process's making.
func (s *Store) DropLayer(id digest.Digest) error {
	return wrap("remove", s.layerPath(id), s.dropLayer(id))
}

// dropLayer removes the directory form of a layer.
func (s *Store) dropLayer(id digest.Digest) error {
	aside := s.tempName()
	err := os.Rename(s.layerPath(id), aside)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return removeTree(aside)
}

// MeasureLayer counts what a layer's directory holds, its root not counted.
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
