package cache

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Image is a name in the local store and what it names.
type Image struct {
	Name      string // in full, such as docker.io/library/x:latest
	Digest    digest.Digest
	MediaType string
	Size      int64  // of the manifest or index, bytes
	Kind      string // KindBuilt or KindBase
	Target    string // of the project that it was built from, or empty
	Recorded  time.Time
}

// The kinds of an Image.
const (
	KindBuilt = "built"
	KindBase  = "base" // an image that others stand on, as its registry has it
)

// Annotations of index.json that carry what an OCI descriptor has no field for.
const (
	annotationKind     = "build.bake.kind"
	annotationTarget   = "build.bake.target"
	annotationRecorded = "build.bake.recorded"
)

// maxIndex bounds index.json, in bytes.
const maxIndex = 64 << 20

// LayoutDir is the OCI layout that holds the images, for readers.
func (s *Store) LayoutDir() string { return s.path(dirOCI) }

func (s *Store) indexPath() string { return s.path(dirOCI, ocispecs.ImageIndexFile) }

// makeLayout makes the folder an OCI image layout, which other tools can read.
func (s *Store) makeLayout() error {
	path := s.path(dirOCI, ocispecs.ImageLayoutFile)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	return os.WriteFile(path, []byte(`{"imageLayoutVersion":"`+ocispecs.ImageLayoutVersion+`"}`), 0o600)
}

// Images lists the images of the store by name.
func (s *Store) Images() ([]Image, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	images := make([]Image, 0, len(index.Manifests))
	for _, m := range index.Manifests {
		name := m.Annotations[ocispecs.AnnotationRefName]
		if name == "" || m.Digest.Validate() != nil {
			continue
		}
		recorded, _ := time.Parse(time.RFC3339Nano, m.Annotations[annotationRecorded])
		images = append(images, Image{
			Name: name, Digest: m.Digest, MediaType: m.MediaType, Size: m.Size,
			Kind: m.Annotations[annotationKind], Target: m.Annotations[annotationTarget], Recorded: recorded,
		})
	}
	return images, nil
}

// Image looks an image up by its full name.
func (s *Store) Image(name string) (Image, bool, error) {
	images, err := s.Images()
	i := slices.IndexFunc(images, func(i Image) bool { return i.Name == name })
	if err != nil || i < 0 {
		return Image{}, false, err
	}
	return images[i], true, nil
}

// PutImages makes names point to images, all at once: another process sees all of them or none. Their blobs must have
// been committed; they are synced before.
func (s *Store) PutImages(images []Image) error {
	if len(images) == 0 {
		return nil
	}
	if err := s.Sync(); err != nil {
		return err
	}
	return s.changeIndex(func(index *ocispecs.Index) {
		for _, image := range images {
			removeName(index, image.Name)
			index.Manifests = append(index.Manifests, descriptorOf(image))
		}
	})
}

func descriptorOf(image Image) ocispecs.Descriptor {
	annotations := map[string]string{
		ocispecs.AnnotationRefName: image.Name,
		annotationKind:             image.Kind,
		annotationRecorded:         image.Recorded.UTC().Format(time.RFC3339Nano),
	}
	if image.Target != "" {
		annotations[annotationTarget] = image.Target
	}
	return ocispecs.Descriptor{
		MediaType: image.MediaType, Digest: image.Digest, Size: image.Size, Annotations: annotations,
	}
}

// RemoveImage removes a name and says whether it was there. Its blobs stay until a prune.
func (s *Store) RemoveImage(name string) (bool, error) {
	removed := false
	err := s.changeIndex(func(index *ocispecs.Index) { removed = removeName(index, name) })
	if err == nil && removed {
		err = wrap("remove", s.path(fileLedger), s.forgetLedger()) // more may go than before
	}
	return removed, err
}

// removeImageIfSame removes a name unless it stands for something else by now.
func (s *Store) removeImageIfSame(image Image) (bool, error) {
	removed := false
	err := s.changeIndex(func(index *ocispecs.Index) {
		for _, m := range index.Manifests {
			if m.Annotations[ocispecs.AnnotationRefName] == image.Name && m.Digest == image.Digest {
				removed = removeName(index, image.Name)
				return
			}
		}
	})
	return removed, err
}

func removeName(index *ocispecs.Index, name string) bool {
	before := len(index.Manifests)
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispecs.Descriptor) bool {
		return d.Annotations[ocispecs.AnnotationRefName] == name
	})
	return len(index.Manifests) < before
}

func (s *Store) readIndex() (ocispecs.Index, error) {
	index := ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex}
	raw, err := readBounded(s.indexPath(), maxIndex)
	if errors.Is(err, os.ErrNotExist) {
		return index, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		return index, &Error{Op: "read the list of images", Path: s.indexPath(), Err: err}
	}
	return index, nil
}

// changeIndex changes index.json under a lock that all processes take, and makes the change durable.
func (s *Store) changeIndex(change func(*ocispecs.Index)) error {
	lock, err := lockFile(s.path(dirLocks, "images"), unix.LOCK_EX)
	if err != nil {
		return wrap("lock the list of images", s.indexPath(), err)
	}
	defer lock.Close()
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	change(&index)
	slices.SortStableFunc(index.Manifests, func(a, b ocispecs.Descriptor) int {
		return compareNames(a.Annotations, b.Annotations)
	})
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return wrap("write the list of images", s.indexPath(), s.writeDurable(s.indexPath(), raw))
}

func compareNames(a, b map[string]string) int {
	x, y := a[ocispecs.AnnotationRefName], b[ocispecs.AnnotationRefName]
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// writeDurable is writeFile with the file and its folder synced.
func (s *Store) writeDurable(path string, raw []byte) error {
	tmp, err := s.tempFile()
	if err != nil {
		return err
	}
	_, err = tmp.Write(raw)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = moveInto(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
