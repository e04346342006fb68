package executor

import (
	"context"

	"github.com/bakebuild/bake/executor/registry"
)

// NewPusher returns a Pusher that uses the registry client, or nil without a client.
func NewPusher(client *registry.Client) Pusher {
	if client == nil {
		return nil
	}
	return pusher{client}
}

type pusher struct{ client *registry.Client }

// Push implements Pusher.
func (p pusher) Push(ctx context.Context, images []PushImage, progress func(blob string, sent, size int64)) error {
	list := make([]registry.PushImage, len(images))
	for i, m := range images {
		list[i] = registry.PushImage{
			Refs: m.Refs, Image: m.Image, Index: m.Index, ByDigest: m.ByDigest, Insecure: m.Insecure,
		}
	}
	return p.client.Push(ctx, list, progress)
}
