package executor

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/planner"
)

// platformImage returns the digests and layers of the image of one platform.
func platformImage(planned *planner.Image, img v1.Image) (PlatformImage, error) {
	p := PlatformImage{Platform: platforms.FormatAll(planned.Platform)}
	hash, err := img.Digest()
	if err != nil {
		return p, err
	}
	p.Digest = digest.Digest(hash.String())
	manifest, err := img.Manifest()
	if err != nil {
		return p, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return p, err
	}
	var base ocispecs.Image // the planned config has the layers of the base only
	if err := json.Unmarshal(planned.Config, &base); err != nil {
		return p, fmt.Errorf("image config: %w", err)
	}
	var lines []string
	for _, h := range config.History {
		if !h.EmptyLayer {
			lines = append(lines, h.CreatedBy)
		}
	}
	for i, l := range manifest.Layers {
		layer := ImageLayer{Digest: digest.Digest(l.Digest.String()), Size: l.Size, Base: i < len(base.RootFS.DiffIDs)}
		if i < len(config.RootFS.DiffIDs) {
			layer.DiffID = digest.Digest(config.RootFS.DiffIDs[i].String())
		}
		if i < len(lines) {
			layer.CreatedBy = lines[i]
		}
		p.Layers = append(p.Layers, layer)
	}
	return p, nil
}
