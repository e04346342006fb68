package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxArchiveFiles bounds the files of an archive of images.
const maxArchiveFiles = 100_000

// errNotArchive reports that a file has neither of the two formats, or is incomplete.
var errNotArchive = errors.New("not a complete image archive; use the output of docker save or of type=oci")

// archived is an image of an archive, or an index of several, under one of its names.
type archived struct {
	name  string
	image v1.Image
	index v1.ImageIndex
}

// readArchive lists the images of an archive. An OCI layout is unpacked into dir and keeps its digests; anything else
// is read as an archive of docker save.
func readArchive(ctx context.Context, file, dir string) ([]archived, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, &readError{err}
	}
	defer f.Close()
	err = untar(ctx, archiveReader{ctx, f}, dir)
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errNotArchive
	}
	if err != nil {
		return nil, err
	}
	var layoutErr error
	if _, err := os.Lstat(filepath.Join(dir, ocispecs.ImageLayoutFile)); err == nil {
		images, err := layoutImages(dir)
		if err == nil {
			return images, nil
		}
		layoutErr = err
	}
	manifest, err := tarball.LoadManifest(opener(file))
	switch {
	case err == nil:
		return dockerImages(file, manifest)
	case layoutErr != nil:
		return nil, layoutErr
	}
	return nil, errNotArchive
}

func opener(file string) tarball.Opener {
	return func() (io.ReadCloser, error) { return os.Open(file) }
}

// dockerImages lists the images of an archive of docker save, once for each name.
func dockerImages(file string, manifest tarball.Manifest) ([]archived, error) {
	var all []archived
	for _, m := range manifest {
		if len(m.RepoTags) == 0 {
			return nil, fmt.Errorf("image %s has no name", m.Config)
		}
		for _, ref := range m.RepoTags {
			tag, err := name.NewTag(ref)
			if err != nil {
				return nil, err
			}
			image, err := tarball.Image(opener(file), &tag)
			if err != nil {
				return nil, err
			}
			full, err := archivedName(ref, "")
			if err != nil {
				return nil, err
			}
			all = append(all, archived{name: full, image: image})
		}
	}
	return all, nil
}

// layoutImages lists the images of an OCI layout. containerd's name of an image has precedence over its OCI name.
func layoutImages(dir string) ([]archived, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var all []archived
	for _, d := range m.Manifests {
		name := d.Annotations["io.containerd.image.name"]
		if name == "" {
			name = d.Annotations[ocispecs.AnnotationRefName]
		}
		full, err := archivedName(name, d.Digest.Hex)
		if err != nil {
			return nil, err
		}
		one := archived{name: full}
		switch {
		case d.MediaType.IsImage():
			one.image, err = index.Image(d.Digest)
		case d.MediaType.IsIndex():
			one.index, err = index.ImageIndex(d.Digest)
		default:
			err = fmt.Errorf("%s has media type %s, which is not an image", d.Digest, d.MediaType)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// archivedName returns the full name of an image of an archive. An image without a name is named by its digest.
func archivedName(name, hex string) (string, error) {
	if name == "" {
		name = "loaded:" + hex[:12]
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	return reference.TagNameOnly(ref).String(), nil
}

// untar unpacks regular files below dir and ignores all other entries: an image layout consists of regular files.
func untar(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n > maxArchiveFiles {
			return fmt.Errorf("it has more than %d files", maxArchiveFiles)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := untarFile(root, strings.TrimPrefix(path.Clean("/"+h.Name), "/"), t); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// untarFile writes a regular file, which must not exist.
func untarFile(root *os.Root, name string, content io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}
