package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/images"
)

func newImageTagCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "tag NAME NEW…",
		Short:   "Add names to an image in the local store",
		Example: "  bake image tag hello registry.example.com/hello:1.0\n  bake image tag hello:dev hello:1.0 hello",
		Args:    cobra.MinimumNArgs(2),
		RunE:    func(_ *cobra.Command, args []string) error { return a.tagImage(args[0], args[1:]) },
	}
}

func (a *app) tagImage(name string, more []string) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	return images.Tag(s, name, more)
}

func newImageRemoveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME…",
		Short:   "Remove names from the local store",
		Long:    "Remove names only. To free the space of images without a name, run bake cache prune.",
		Example: "  bake image rm hello\n  bake image rm hello:1.0 hello:latest",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.removeImages(args) },
	}
}

func (a *app) removeImages(names []string) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	for _, name := range names {
		removed, err := images.Remove(s, name)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, shownName(removed))
	}
	return nil
}
