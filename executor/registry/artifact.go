package registry

import (
	"context"
	"errors"
	"net/http"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Artifact is a manifest that need not describe an image.
type Artifact struct {
	Raw      []byte
	Manifest ocispecs.Manifest // Raw decoded, as far as it has these fields
}

// Artifact reads the manifest that a reference names, from the registry itself. It skips mirrors, which may not have
// what was just pushed. Errors are of type *Error.
func (c *Client) Artifact(ctx context.Context, ref string) (Artifact, error) {
	i, err := parseImage(ref)
	if err != nil {
		return Artifact{}, err
	}
	at, err := c.push(i)
	if err != nil {
		return Artifact{}, err
	}
	s, err := c.session(ctx, at)
	var out Artifact
	if err == nil {
		out, err = c.readArtifact(ctx, s, i)
	}
	if err != nil {
		if ctx.Err() != nil {
			return Artifact{}, context.Cause(ctx)
		}
		return Artifact{}, s.fail("read "+reference.FamiliarString(i.named), i, err)
	}
	c.saw(at, out.Manifest.Layers)
	return out, nil
}

func (c *Client) readArtifact(ctx context.Context, s *session, i image) (Artifact, error) {
	raw, _, err := c.manifest(ctx, s, i.tagOrDigest())
	if err != nil {
		return Artifact{}, err
	}
	if i.digest != "" && !sameDigest(i.digest, raw) {
		return Artifact{}, contentf("digest mismatch: expected %s, got %s", i.digest, digest.FromBytes(raw))
	}
	out := Artifact{Raw: raw}
	if err := UnmarshalImage(raw, &out.Manifest); err != nil {
		return Artifact{}, contentf("its manifest is not valid JSON: %s", err)
	}
	for _, l := range append([]ocispecs.Descriptor{out.Manifest.Config}, out.Manifest.Layers...) {
		if l.Digest == "" && l.MediaType == "" {
			continue // an index has no config
		}
		if err := checkDescriptor(l); err != nil {
			return Artifact{}, err
		}
	}
	return out, nil
}

// IsNotFound reports whether a registry answered 404.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}
