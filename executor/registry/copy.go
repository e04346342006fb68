package registry

import (
	"context"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Copy copies an image or index, named by digest, to another name: the same bytes, with all platforms. Content that
// exists at the target is not sent. Errors are of type *Error.
func (c *Client) Copy(ctx context.Context, from, to string) error {
	i, err := parseImage(from)
	if err != nil {
		return err
	}
	return c.pull(ctx, "copy "+reference.FamiliarString(i.named), i, func(s *session) error {
		found, err := remote.Get(s.repo.Digest(i.digest.String()), remote.WithContext(ctx),
			remote.WithTransport(s.client.Transport),
			remote.WithRetryPredicate(func(error) bool { return false }))
		if err != nil {
			return err
		}
		push := PushImage{Refs: []string{to}}
		if found.MediaType.IsIndex() {
			push.Index, err = found.ImageIndex()
		} else {
			push.Image, err = found.Image()
		}
		if err != nil {
			return err
		}
		return c.Push(ctx, []PushImage{push}, nil)
	})
}
