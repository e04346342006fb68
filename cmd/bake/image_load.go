package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/images"
)

func newImageLoadCommand(a *app) *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use:     "load [-i FILE]",
		Short:   "Load images from a tar archive into the local store",
		Long:    "Read an archive from docker save or from an output of type=oci.",
		Example: "  docker save hello | bake image load\n  bake image load -i hello.tar",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.loadImages(cmd.Context(), input) },
	}
	cmd.Flags().StringVarP(&input, "input", "i", "-", "archive to load; - is standard input")
	return cmd
}

func (a *app) loadImages(ctx context.Context, input string) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	if input == "-" {
		input = ""
	}
	records, err := images.Load(ctx, s, input, a.stdin)
	if err != nil {
		return err
	}
	for _, r := range records {
		fmt.Fprintf(a.stdout, "%s %s\n", shownName(r.Name), r.Digest)
	}
	return nil
}
