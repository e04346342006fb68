package main

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor/registry"
)

// pullsAtOnce is how many layers are fetched at one time.
const pullsAtOnce = 4

func newImagePullCommand(a *app) *cobra.Command {
	var platform string
	cmd := &cobra.Command{
		Use:   "pull NAME…",
		Short: "Fetch images into the local store",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := platforms.DefaultSpec()
			if platform != "" {
				var err error
				if p, err = platforms.Parse(platform); err != nil {
					return usagef("--platform: %w", err)
				}
			}
			return a.pullImages(cmd.Context(), args, p)
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "", "which platform of an image that has several")
	return cmd
}

func (a *app) pullImages(ctx context.Context, names []string, p ocispecs.Platform) error {
	s, err := a.open(true)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, name := range names {
		if _, err := storeName(name); err != nil {
			return err
		}
		if err := s.pull(ctx, name, p); err != nil {
			return err
		}
	}
	return nil
}

// pull fetches all blobs of an image first and names it last.
func (s *session) pull(ctx context.Context, name string, p ocispecs.Platform) error {
	resolved, err := s.client.Resolve(ctx, name, p)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pullsAtOnce)
	for _, l := range resolved.Manifest.Layers {
		g.Go(func() error { return s.pullLayer(gctx, resolved.Ref, l) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.resolver.keep(resolved); err != nil {
		return fmt.Errorf("keep image %s: %w", name, err)
	}
	if lacksTag(name) {
		s.app.note("%s has no tag: this is %s:latest as it is now, a name that moves", name, name)
	}
	_, err = fmt.Fprintf(s.app.stdout, "%s %s\n", shownName(resolved.Ref), resolved.Digest)
	return err
}

func (s *session) pullLayer(ctx context.Context, ref string, l registry.Layer) error {
	return s.store.PutBlob(l.Digest, l.Size, func() (io.ReadCloser, error) {
		return s.client.Blob(ctx, ref, ocispecs.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size, URLs: l.URLs})
	})
}
