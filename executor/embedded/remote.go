package embedded

import (
	"context"
	"errors"
	"io"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/registry"
)

// remoteStore reads images from registries.
type remoteStore struct{ client *registry.Client }

// remote returns the registries, for images that are in no layout of the graph.
func (b *build) remote() imageStore { return remoteStore{b.engine.client} }

// errNoClient is the error of engines without a registry client.
var errNoClient = errors.New("this engine has no registry client")

func (r remoteStore) manifest(ctx context.Context, ref string, p ocispecs.Platform) (*imageManifest, error) {
	if r.client == nil {
		return nil, errNoClient
	}
	m, err := r.client.Fetch(ctx, ref, p)
	if err != nil {
		return nil, err
	}
	return &imageManifest{desc: m.Desc, raw: m.Raw, config: m.Config}, nil
}

func (r remoteStore) blob(ctx context.Context, ref string, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	if r.client == nil {
		return nil, errNoClient
	}
	return r.client.Blob(ctx, ref, desc)
}
