package cache

// The list of images, oci/index.json, is the one file of a cache that no build can produce again: it alone says which
// names exist. A damaged list must neither stop every command nor be taken for an empty one, because then the next
// collection would evict the images.
//
// So each change also writes a copy with a checksum, the file "images". If the list is damaged, the first command that
// reads it restores it from the copy, and says so (see Store.SetNote). A name whose manifest is gone by now is not
// restored but reported.
//
// Invariants:
//   - A list that can be read counts, and the copy does not: an earlier version of this program, or another tool, may
//     have changed the list.
//   - The list is written first, both under locks/images. So a copy that is older than the list, or missing, comes from
//     such a change or from a process that was killed in between, and the next reader writes it again.
//   - The list is synced, the copy is not: a power loss that leaves a torn copy leaves the list.
//
// TestDamagedImageList shows all kinds of damage.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// maxIndex bounds index.json, in bytes.
const maxIndex = 64 << 20

const imagesMagic = "bake-images 1 "

func (s *Store) indexPath() string { return s.path(dirOCI, ocispecs.ImageIndexFile) }

// layoutText is the content of the file oci-layout.
const layoutText = `{"imageLayoutVersion":"` + ocispecs.ImageLayoutVersion + `"}`

// makeLayout writes the oci-layout file if it is missing or damaged, so that other tools can read the directory as an
// OCI image layout. This program does not read it, so a full disk is not an error.
func (s *Store) makeLayout() error {
	path := s.path(dirOCI, ocispecs.ImageLayoutFile)
	raw, err := readBounded(path, 1<<10)
	var l ocispecs.ImageLayout
	if err == nil && json.Unmarshal(raw, &l) == nil && strings.HasPrefix(l.Version, "1.") {
		return nil
	}
	if err := s.writeFile(path, []byte(layoutText)); !DiskFull(err) {
		return err
	}
	return nil
}

// index reads the list of images. A damaged one is restored.
func (s *Store) index() (ocispecs.Index, error) {
	index, err := s.readIndex()
	if err == nil {
		s.renewCopy()
		return index, nil
	}
	if !s.isDamage(err) {
		return index, wrap("read the list of images", s.indexPath(), err)
	}
	lock, err := lockFile(s.path(dirLocks, "images"), unix.LOCK_EX)
	if err != nil {
		return index, wrap("lock the list of images", s.indexPath(), err)
	}
	defer lock.Close()
	return s.restoreIndex()
}

// readIndex reads the list. A missing list is empty, unless there is a copy of one.
func (s *Store) readIndex() (ocispecs.Index, error) {
	empty := ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex}
	raw, err := readBounded(s.indexPath(), maxIndex)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(s.path(fileImages)); errors.Is(err, fs.ErrNotExist) {
			return empty, nil
		}
		return empty, listDamage{"it is missing"}
	case errors.Is(err, errDamaged):
		return empty, listDamage{"it is too large, or not a file"}
	case err != nil:
		return empty, err
	}
	index, err := parseIndex(raw)
	if err != nil {
		return empty, listDamage{err.Error()}
	}
	return index, nil
}

// listDamage reports that the list of images exists but cannot be used.
type listDamage struct{ what string }

func (e listDamage) Error() string { return e.what }

// parseIndex parses a list. What is valid JSON but not a list must not be taken for an empty one.
func parseIndex(raw []byte) (ocispecs.Index, error) {
	var index ocispecs.Index
	var keys struct {
		Manifests json.RawMessage `json:"manifests"`
	}
	if !json.Valid(raw) {
		return index, errors.New("it is not valid JSON")
	}
	err := errors.Join(json.Unmarshal(raw, &index), json.Unmarshal(raw, &keys))
	kind := index.MediaType == "" || index.MediaType == ocispecs.MediaTypeImageIndex
	if err != nil || index.SchemaVersion != 2 || !kind || keys.Manifests == nil {
		return index, errors.New("it is not an image index")
	}
	for _, m := range index.Manifests {
		if m.Annotations[ocispecs.AnnotationRefName] != "" && m.Digest.Validate() != nil {
			return index, fmt.Errorf("%q is not a digest", m.Digest)
		}
	}
	return index, nil
}

// isDamage reports whether an error of readIndex is about the file itself, so that no later read succeeds. A file that
// this user may replace but not read counts; one of another user does not.
func (s *Store) isDamage(err error) bool {
	if errors.Is(err, unix.EACCES) {
		return !ownedByOther(s.indexPath())
	}
	var damage listDamage
	return errors.As(err, &damage) || isCorrupt(err) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ELOOP)
}

// restoreIndex restores a damaged list from its copy and reports it. The caller holds the lock "images". If the list
// cannot be written, the one that was found is still returned.
func (s *Store) restoreIndex() (ocispecs.Index, error) {
	index, damage := s.readIndex()
	if damage == nil { // another process restored it meanwhile
		return index, nil
	}
	if !s.isDamage(damage) {
		return index, wrap("read the list of images", s.indexPath(), damage)
	}
	found, lost, err := s.copiedIndex()
	note := fmt.Sprintf("%s: the list of images is damaged (%v); ", s.indexPath(), cause(damage))
	switch {
	case err != nil:
		note += "its copy is too, so the names of all images are lost: build, load or pull them again"
	case len(lost) > 0:
		note += fmt.Sprintf("names restored from its copy: %d; lost, since their manifests are gone: %s",
			len(found.Manifests), strings.Join(lost, ", "))
	default:
		note += fmt.Sprintf("names restored from its copy: %d, which are all", len(found.Manifests))
	}
	index.Manifests = found.Manifests
	if err := s.writeIndex(index); err != nil {
		note += fmt.Sprintf("; it cannot be written yet: %v", err)
	}
	s.note(note)
	return index, nil
}

// copiedIndex reads the copy of the list. lost are the names whose manifests are gone.
func (s *Store) copiedIndex() (index ocispecs.Index, lost []string, err error) {
	raw, err := readBounded(s.path(fileImages), maxIndex+1<<10)
	if err == nil {
		raw, err = unseal(imagesMagic, raw)
	}
	if err == nil {
		index, err = parseIndex(raw)
	}
	if err != nil {
		return ocispecs.Index{}, nil, err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispecs.Descriptor) bool {
		name := d.Annotations[ocispecs.AnnotationRefName]
		gone := name != "" && !s.hasManifest(d)
		if gone {
			lost = append(lost, name)
		}
		return gone
	})
	return index, lost, nil
}

func (s *Store) hasManifest(d ocispecs.Descriptor) bool {
	_, ok := s.readManifest(d.Digest)
	return ok
}

// renewCopy writes the copy if it is missing or older than the list. Failing is harmless: the next reader tries again.
func (s *Store) renewCopy() {
	list, err := os.Lstat(s.indexPath())
	if err != nil {
		return
	}
	if info, err := os.Lstat(s.path(fileImages)); err == nil && !info.ModTime().Before(list.ModTime()) {
		return
	}
	lock, err := lockFile(s.path(dirLocks, "images"), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return
	}
	defer lock.Close()
	if index, err := s.readIndex(); err == nil {
		s.writeCopy(index)
	}
}

// writeCopy writes the copy of the list. If that fails there is no copy, rather than an outdated one.
func (s *Store) writeCopy(index ocispecs.Index) {
	raw, err := json.MarshalIndent(index, "", "  ")
	if err == nil {
		err = s.writeFile(s.path(fileImages), seal(imagesMagic, raw))
	}
	if err != nil {
		os.Remove(s.path(fileImages))
	}
}

// changeIndex changes index.json under a lock that all processes take, and syncs the change.
func (s *Store) changeIndex(change func(*ocispecs.Index)) error {
	lock, err := lockFile(s.path(dirLocks, "images"), unix.LOCK_EX)
	if err != nil {
		return wrap("lock the list of images", s.indexPath(), err)
	}
	defer lock.Close()
	index, err := s.restoreIndex()
	if err != nil {
		return err
	}
	change(&index)
	slices.SortStableFunc(index.Manifests, func(a, b ocispecs.Descriptor) int {
		return strings.Compare(a.Annotations[ocispecs.AnnotationRefName], b.Annotations[ocispecs.AnnotationRefName])
	})
	return wrap("write the list of images", s.indexPath(), s.writeIndex(index))
}

// writeIndex writes the list, then its copy. The caller holds the lock "images".
func (s *Store) writeIndex(index ocispecs.Index) error {
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	if len(raw) > maxIndex {
		return fmt.Errorf("it would exceed %d MB; remove names with bake image rm", maxIndex>>20)
	}
	if err := s.writeDurable(s.indexPath(), raw); err != nil {
		return err
	}
	s.writeCopy(index)
	return nil
}
