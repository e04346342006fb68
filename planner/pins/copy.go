package pins

import (
	"context"
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"github.com/bakebuild/bake/config"
)

// maxCopiedTag is how many bytes of a tag the tag of a copy keeps. With "-" and 12 digits of the digest it stays below
// the 128 bytes that a registry allows.
const maxCopiedTag = 100

// CopyImages copies the pinned images of the plan to repositories below to, and records these in the lock as the place
// to pull from. An empty to copies nothing.
func (p *Plan) CopyImages(ctx context.Context, to string) ([]Change, error) {
	if to == "" {
		return nil, nil
	}
	var changes []Change
	for _, b := range p.Graph.Bases {
		pin, ok := p.Lock.Images[b.Ref]
		if !ok {
			continue
		}
		repository, err := copyRepository(to, b.Ref)
		if err != nil {
			return nil, err
		}
		if err := p.copyImage(ctx, b.Ref, pin, repository); err != nil {
			return nil, err
		}
		if pin.From != repository {
			pin.From = repository
			p.Lock.Images[b.Ref] = pin
			changes = append(changes, Change{">", b.Ref, repository})
		}
	}
	return changes, nil
}

// copyRepository returns the repository below to that holds the copy of an image: the image's path without its
// registry.
func copyRepository(to, ref string) (string, error) {
	below, err := reference.ParseNormalizedNamed(to)
	if err != nil {
		return "", &UsageError{fmt.Errorf("--copy-to=%s: %w", to, err)}
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", err
	}
	return below.Name() + "/" + reference.Path(named), nil
}

// copyImage copies a pinned image to a repository, from where it is pulled now. The copy gets a tag that never moves,
// TAG-DIGEST: some registries remove images without a tag.
func (p *Plan) copyImage(ctx context.Context, ref string, pin config.ImagePin, repository string) error {
	from := ref
	if pin.From != "" && pin.From != repository {
		from = pin.From
	}
	tag := tagOf(ref)
	tag = tag[:min(len(tag), maxCopiedTag)] + "-" + pin.Digest.Encoded()[:12]
	return p.Registry.Copy(ctx, from+"@"+pin.Digest.String(), repository+":"+tag)
}

// tagOf returns the tag of a normalized reference.
func tagOf(ref string) string { return ref[strings.LastIndex(ref, ":")+1:] }

// repositoryOf returns a normalized reference without its tag.
func repositoryOf(ref string) string { return ref[:strings.LastIndex(ref, ":")] }
