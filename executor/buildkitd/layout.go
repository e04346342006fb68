package buildkitd

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutStore is an OCI image layout of this machine as a read-only content store for a daemon.
type layoutStore struct {
	unsupported
	dir string
}

// newLayoutStore returns the store of the layout in dir.
func newLayoutStore(dir string) *layoutStore { return &layoutStore{dir: dir} }

func (s *layoutStore) open(d digest.Digest) (sizedFile, error) {
	if err := d.Validate(); err != nil {
		return sizedFile{}, errdefs.ErrInvalidArgument
	}
	f, err := os.Open(filepath.Join(s.dir, "blobs", d.Algorithm().String(), d.Encoded()))
	if errors.Is(err, os.ErrNotExist) {
		return sizedFile{}, errdefs.ErrNotFound
	}
	if err != nil {
		return sizedFile{}, err
	}
	return sized(f)
}

// Info implements content.Store.
func (s *layoutStore) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	f, err := s.open(d)
	if err != nil {
		return content.Info{}, err
	}
	return content.Info{Digest: d, Size: f.size}, f.Close()
}

// ReaderAt implements content.Store.
func (s *layoutStore) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	return s.open(desc.Digest)
}
