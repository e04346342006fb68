package main

import (
	"context"
	"fmt"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/images"
)

func newImagePullCommand(a *app) *cobra.Command {
	var platform string
	cmd := &cobra.Command{
		Use:     "pull NAME…",
		Short:   "Pull images into the local store",
		Example: "  bake image pull alpine:3.22\n  bake image pull --platform linux/arm64 alpine:3.22",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := platformFlag(platform)
			if err != nil {
				return err
			}
			return a.pullImages(cmd.Context(), args, p)
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "",
		"platform to pull from a multi-platform image (default this machine's)")
	return cmd
}

// platformFlag returns the platform that --platform names, this machine's if it is not set.
func platformFlag(text string) (ocispecs.Platform, error) {
	if text == "" {
		return platforms.DefaultSpec(), nil
	}
	p, err := platforms.Parse(text)
	if err != nil {
		return p, usagef("--platform=%s: unknown platform; use os/arch, such as linux/arm64", text)
	}
	return p, nil
}

func (a *app) pullImages(ctx context.Context, names []string, p ocispecs.Platform) error {
	s, err := a.open(true)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, name := range names {
		if _, err := images.FullName(name); err != nil {
			return err
		}
		pulled, err := images.Pull(ctx, s.store, s.client, name, p, s.resolver.Keep)
		if err != nil {
			return err
		}
		if images.IsNameOnly(name) {
			a.note("%s has no tag: pulled its tag latest, which can change", name)
		}
		if _, err := fmt.Fprintf(a.stdout, "%s %s\n", shownName(pulled.Ref), pulled.Digest); err != nil {
			return err
		}
	}
	return nil
}
