package embedded

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/registry"
)

// localImages reads images from the blobs of the local store.
type localImages struct{ store *cache.Store }

// manifest finds the manifest for the digest in ref.
func (l localImages) manifest(_ context.Context, ref string, p ocispecs.Platform) (*imageManifest, error) {
	return readLayout(l.store.BlobPath, ref, p)
}

// layoutStore reads images from an OCI image layout directory.
type layoutStore struct{ dir string }

func (l layoutStore) path(d digest.Digest) string {
	return filepath.Join(l.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

func (l layoutStore) manifest(_ context.Context, ref string, p ocispecs.Platform) (*imageManifest, error) {
	return readLayout(l.path, ref, p)
}

func (l layoutStore) blob(_ context.Context, _ string, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	return os.Open(l.path(desc.Digest))
}

// Bounds, in bytes, of what is read into memory.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
	maxNesting  = 4 // of indexes in indexes
)

// readLayout follows the digest in ref through indexes to the manifest for a platform.
func readLayout(path func(digest.Digest) string, ref string, p ocispecs.Platform) (*imageManifest, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, err
	}
	dgst, ok := named.(reference.Digested)
	if !ok {
		return nil, fmt.Errorf("%s has no digest", ref)
	}
	at := dgst.Digest()
	for range maxNesting {
		raw, err := readBlob(path, at, maxManifest)
		if err != nil {
			return nil, err
		}
		var m struct {
			MediaType string                `json:"mediaType"`
			Manifests []ocispecs.Descriptor `json:"manifests"`
			Config    *ocispecs.Descriptor  `json:"config"`
		}
		if err := registry.UnmarshalImage(raw, &m); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", at, err)
		}
		if m.Config != nil {
			config, err := readBlob(path, m.Config.Digest, maxConfig)
			if err != nil {
				return nil, err
			}
			if m.MediaType == "" {
				m.MediaType = ocispecs.MediaTypeImageManifest
			}
			return &imageManifest{
				desc: ocispecs.Descriptor{MediaType: m.MediaType, Digest: at, Size: int64(len(raw))},
				raw:  raw, config: config,
			}, nil
		}
		if at, err = choose(m.Manifests, p); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: indexes are nested more than 4 deep", ref)
}

// choose returns the manifest of an index for a platform.
func choose(list []ocispecs.Descriptor, p ocispecs.Platform) (digest.Digest, error) {
	match := platforms.Only(p)
	best := -1
	for i, d := range list {
		if d.Platform == nil || !match.Match(*d.Platform) || d.Digest.Validate() != nil {
			continue
		}
		if best < 0 || match.Less(*d.Platform, *list[best].Platform) {
			best = i
		}
	}
	if best < 0 {
		return "", fmt.Errorf("the image has no variant for %s", platforms.FormatAll(p))
	}
	return list[best].Digest, nil
}

// readBlob reads a blob of at most max bytes and verifies it.
func readBlob(path func(digest.Digest) string, want digest.Digest, max int64) ([]byte, error) {
	if err := want.Validate(); err != nil {
		return nil, err
	}
	file, err := os.Open(path(want))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("blob %s is larger than %d bytes", want, max)
	}
	if got := want.Algorithm().FromBytes(data); got != want {
		return nil, fmt.Errorf("blob %s is damaged: its digest is %s", want, got)
	}
	return data, nil
}
