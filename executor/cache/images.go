package cache

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is a name in the local image store and the image it refers to.
type Image struct {
	Name      string // normalized, such as docker.io/library/x:latest
	Digest    digest.Digest
	MediaType string
	Size      int64  // of the manifest or index, bytes
	Kind      string // KindBuilt or KindBase
	Target    string // the target it was built from, or empty
	Origin    Origin // the project that named it; zero for a base, or if the user named it with a command
	Recorded  time.Time
}

// Origin is the project that gave an image its name.
type Origin struct {
	Project string // the directory of a local project, or the URL of a remote definition
	Remote  bool   // it is a remote definition
}

// The kinds of an Image.
const (
	KindBuilt = "built"
	KindBase  = "base" // a base image, unchanged from its registry
)

// Annotations in index.json for the fields of Image that an OCI descriptor lacks.
const (
	annotationKind     = "build.bake.kind"
	annotationTarget   = "build.bake.target"
	annotationProject  = "build.bake.project"
	annotationRemote   = "build.bake.remote"
	annotationRecorded = "build.bake.recorded"
)

// LayoutDir returns the OCI image layout that holds the images. Callers must not write to it.
func (s *Store) LayoutDir() string { return s.path(dirOCI) }

// Images returns the images in the store, sorted by name. It restores a damaged list (see imagelist.go).
func (s *Store) Images() ([]Image, error) {
	index, err := s.index()
	if err != nil {
		return nil, err
	}
	return imagesOf(index), nil
}

// imagesOf returns the images that an index names.
func imagesOf(index ocispecs.Index) []Image {
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
			Origin: Origin{
				Project: m.Annotations[annotationProject], Remote: m.Annotations[annotationRemote] == "true",
			},
		})
	}
	return images
}

// Image returns the image with a normalized name and reports whether it exists.
func (s *Store) Image(name string) (Image, bool, error) {
	images, err := s.Images()
	i := slices.IndexFunc(images, func(i Image) bool { return i.Name == name })
	if err != nil || i < 0 {
		return Image{}, false, err
	}
	return images[i], true, nil
}

// PutImages points names to images, all in one step: another process sees all of the changes or none. It calls Sync
// first, so the names and their blobs are durable when it returns, whichever process wrote the blobs. The blobs must
// have been committed.
func (s *Store) PutImages(images []Image) error {
	_, err := s.MoveImages(images)
	return err
}

// MoveImages is PutImages, and reports for each image whether its name referred to another image before, or to none.
func (s *Store) MoveImages(images []Image) (moved []bool, err error) {
	if len(images) == 0 {
		return nil, nil
	}
	if err := s.Sync(); err != nil {
		return nil, err
	}
	moved = make([]bool, len(images))
	err = s.changeIndex(func(index *ocispecs.Index) {
		for i, image := range images {
			moved[i] = !slices.ContainsFunc(index.Manifests, func(d ocispecs.Descriptor) bool {
				return d.Annotations[ocispecs.AnnotationRefName] == image.Name && d.Digest == image.Digest
			})
			removeName(index, image.Name)
			index.Manifests = append(index.Manifests, descriptorOf(image))
		}
	})
	return moved, err
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
	if image.Origin.Project != "" {
		annotations[annotationProject] = image.Origin.Project
	}
	if image.Origin.Remote {
		annotations[annotationRemote] = "true"
	}
	return ocispecs.Descriptor{
		MediaType: image.MediaType, Digest: image.Digest, Size: image.Size, Annotations: annotations,
	}
}

// RemoveImage removes a name and reports whether it existed. The blobs remain until they are pruned or collected.
func (s *Store) RemoveImage(name string) (bool, error) {
	removed := false
	err := s.changeIndex(func(index *ocispecs.Index) { removed = removeName(index, name) })
	if err == nil && removed {
		err = wrap("remove", s.path(fileLedger), s.forgetLedger()) // the next collection can evict more
	}
	return removed, err
}

// removeImageIfSame removes a name unless it refers to another image by now.
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

// writeDurable is writeFile, and syncs the file and its directory.
func (s *Store) writeDurable(path string, raw []byte) error {
	tmp, err := s.tempFile()
	if err != nil {
		return err
	}
	_, err = tmp.Write(raw)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = s.moveInto(tmp.Name(), path)
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
