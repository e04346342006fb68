package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
)

// Load stores the images of an archive, an OCI layout or one of docker save, and returns their records. It stores all
// blobs before it names the first image. input is the archive's file; "" reads stdin, which is spooled to a file first,
// because an archive is read more than once. Both go to the cache's disk, where the images go too.
func Load(ctx context.Context, s *cache.Store, input string, stdin io.Reader) ([]cache.Image, error) {
	dir, err := s.TempDir()
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	defer os.RemoveAll(dir)
	if input == "" {
		input = filepath.Join(dir, "archive.tar")
		if err := spool(ctx, input, stdin); err != nil {
			return nil, loadError(dir, err)
		}
	}
	found, err := readArchive(ctx, input, filepath.Join(dir, "layout"))
	if err != nil {
		return nil, loadError(dir, err)
	}
	var records []cache.Image
	for _, f := range found {
		record, err := store(s, f)
		if err != nil {
			return nil, fmt.Errorf("store image %s: %w", f.name, err)
		}
		records = append(records, record)
	}
	return records, s.PutImages(records)
}

// loadError returns the error of a load. The cause is the interrupt, the archive, or this machine, which can read the
// archive or write its files no further.
func loadError(dir string, err error) error {
	var reading *readError
	switch {
	case errors.Is(err, context.Canceled), errors.As(err, &reading) && cache.SystemFault(err):
		return fmt.Errorf("load images: %w", err)
	case cache.SystemFault(err), errors.Is(err, fs.ErrPermission) && !errors.As(err, &reading):
		return fmt.Errorf("load images: %w", &cache.Error{Op: "unpack the archive in", Path: dir, Err: err})
	}
	return errorf("load images: %v", err)
}

// readError is an error of reading an archive, as opposed to writing its files.
type readError struct{ error }

func (e *readError) Unwrap() error { return e.error }

// archiveReader marks the errors of reading an archive, and ends with ctx.
type archiveReader struct {
	ctx context.Context
	r   io.Reader
}

func (a archiveReader) Read(p []byte) (int, error) {
	if a.ctx.Err() != nil {
		return 0, context.Cause(a.ctx)
	}
	n, err := a.r.Read(p)
	if err != nil && err != io.EOF {
		err = &readError{err}
	}
	return n, err
}

func spool(ctx context.Context, file string, r io.Reader) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, archiveReader{ctx, r})
	return errors.Join(err, f.Close())
}

// store stores all blobs of an image, or of the images of an index, and returns the record that names it.
func store(s *cache.Store, f archived) (cache.Image, error) {
	var top interface {
		RawManifest() ([]byte, error)
		MediaType() (types.MediaType, error)
	} = f.image
	var err error
	if f.index != nil {
		top = f.index
		err = storeIndexed(s, f.index)
	} else {
		err = storeBlobs(s, f.image)
	}
	if err != nil {
		return cache.Image{}, err
	}
	manifest, err := top.RawManifest()
	if err != nil {
		return cache.Image{}, err
	}
	d, err := s.PutBytes(manifest)
	if err != nil {
		return cache.Image{}, err
	}
	kind, err := top.MediaType()
	return cache.Image{
		Name: f.name, Digest: d, MediaType: string(kind), Size: int64(len(manifest)),
		Kind: cache.KindBuilt, Recorded: time.Now().UTC(),
	}, err
}

// storeIndexed stores the images of an index.
func storeIndexed(s *cache.Store, index v1.ImageIndex) error {
	m, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			return err
		}
		if err := storeBlobs(s, image); err != nil {
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

// storeBlobs stores the layers and the config of an image.
func storeBlobs(s *cache.Store, image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := storeLayer(s, l); err != nil {
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

func storeLayer(s *cache.Store, l v1.Layer) error {
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
