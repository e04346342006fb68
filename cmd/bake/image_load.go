package main

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
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/cache"
)

// maxArchiveFiles bounds the files of an archive of images.
const maxArchiveFiles = 100_000

func newImageLoadCommand(a *app) *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use:   "load [-i FILE]",
		Short: "Read images of a tar, as docker save or type=oci writes it, into the local store",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.loadImages(cmd.Context(), input) },
	}
	cmd.Flags().StringVarP(&input, "input", "i", "-", "the tar; - is standard input")
	return cmd
}

// namedImage is an image of an archive, or an index of several, under one of its names.
type namedImage struct {
	name  string
	image v1.Image
	index v1.ImageIndex
}

// loadImages keeps all blobs of an archive, and names the images last.
func (a *app) loadImages(ctx context.Context, input string) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	dir, err := os.MkdirTemp("", "bake-load-")
	if err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	defer os.RemoveAll(dir)
	file := input
	if input == "-" {
		file = filepath.Join(dir, "archive.tar")
		if err := spool(file, a.stdin); err != nil {
			return fmt.Errorf("load images: %w", err)
		}
	}
	found, err := archiveImages(ctx, file, filepath.Join(dir, "layout"))
	if err != nil {
		return usagef("load images: %w", err)
	}
	var records []cache.Image
	for _, f := range found {
		record, err := keepImage(s, f)
		if err != nil {
			return fmt.Errorf("keep image %s: %w", f.name, err)
		}
		records = append(records, record)
	}
	if err := s.PutImages(records); err != nil {
		return err
	}
	for _, r := range records {
		fmt.Fprintf(a.stdout, "%s %s\n", shownName(r.Name), r.Digest)
	}
	return nil
}

// spool writes standard input to a file, since archives are read more than once.
func spool(file string, r io.Reader) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// archiveImages lists the images of an archive: of an OCI layout, which is unpacked into dir and keeps its digests, else of
// docker save.
func archiveImages(ctx context.Context, file, dir string) ([]namedImage, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := untar(ctx, f, dir); err != nil {
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
	return nil, errors.New("it is neither an OCI layout nor what docker save writes")
}

func opener(file string) tarball.Opener {
	return func() (io.ReadCloser, error) { return os.Open(file) }
}

// dockerImages lists the images of what docker save writes, once for each name.
func dockerImages(file string, manifest tarball.Manifest) ([]namedImage, error) {
	var all []namedImage
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
			full, err := loadedName(ref, "")
			if err != nil {
				return nil, err
			}
			all = append(all, namedImage{name: full, image: image})
		}
	}
	return all, nil
}

// untar unpacks regular files below dir; nothing else has a place in an image layout.
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
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if n > maxArchiveFiles {
			return fmt.Errorf("it holds more than %d files", maxArchiveFiles)
		}
		if err := untarEntry(root, name, h, t); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func untarEntry(root *os.Root, name string, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeReg {
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
	return nil
}

func layoutImages(dir string) ([]namedImage, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var all []namedImage
	for _, d := range m.Manifests {
		name := d.Annotations["io.containerd.image.name"]
		if name == "" {
			name = d.Annotations[ocispecs.AnnotationRefName]
		}
		full, err := loadedName(name, d.Digest.Hex)
		if err != nil {
			return nil, err
		}
		one := namedImage{name: full}
		switch {
		case d.MediaType.IsImage():
			one.image, err = index.Image(d.Digest)
		case d.MediaType.IsIndex():
			one.index, err = index.ImageIndex(d.Digest)
		default:
			err = fmt.Errorf("%s is of type %s, which is no image", d.Digest, d.MediaType)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// loadedName is the full name of a loaded image; one without a name is called by its digest.
func loadedName(name, hex string) (string, error) {
	if name == "" {
		name = "loaded:" + hex[:12]
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	return reference.TagNameOnly(ref).String(), nil
}

// keepImage stores all blobs of an image, or of those of an index, and says how it is named.
func keepImage(s *cache.Store, f namedImage) (cache.Image, error) {
	var top interface {
		RawManifest() ([]byte, error)
		MediaType() (types.MediaType, error)
	} = f.image
	var err error
	if f.index != nil {
		top = f.index
		err = keepIndexed(s, f.index)
	} else {
		err = keepBlobs(s, f.image)
	}
	if err != nil {
		return cache.Image{}, err
	}
	manifest, err := top.RawManifest()
	if err != nil {
		return cache.Image{}, err
	}
	if _, err := s.PutBytes(manifest); err != nil {
		return cache.Image{}, err
	}
	kind, err := top.MediaType()
	return cache.Image{
		Name: f.name, Digest: digest.FromBytes(manifest), MediaType: string(kind), Size: int64(len(manifest)),
		Kind: cache.KindBuilt, Recorded: time.Now().UTC(),
	}, err
}

// keepIndexed stores all images of an index.
func keepIndexed(s *cache.Store, index v1.ImageIndex) error {
	m, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			return err
		}
		if err := keepBlobs(s, image); err != nil {
			return err
		}
		raw, err := image.RawManifest()
		if err != nil {
			return err
		}
		if got := digest.FromBytes(raw); got.String() != d.Digest.String() {
			return fmt.Errorf("manifest %s has the content of %s", d.Digest, got)
		}
		if _, err := s.PutBytes(raw); err != nil {
			return err
		}
	}
	return nil
}

// keepBlobs stores the layers and the config of an image.
func keepBlobs(s *cache.Store, image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := keepLayer(s, l); err != nil {
			return err
		}
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	_, err = s.PutBytes(config)
	return err
}

func keepLayer(s *cache.Store, l v1.Layer) error {
	d, err := l.Digest()
	if err != nil {
		return err
	}
	size, err := l.Size()
	if err != nil {
		return err
	}
	return s.PutBlob(digest.Digest(d.String()), size, l.Compressed)
}
