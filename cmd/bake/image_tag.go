package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/cache"
)

func newImageTagCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag NAME NEW…",
		Short: "Give an image of the local store more names",
		Args:  cobra.MinimumNArgs(2),
		RunE:  func(_ *cobra.Command, args []string) error { return a.tagImage(args[0], args[1:]) },
	}
}

func (a *app) tagImage(name string, more []string) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	found, err := findStored(s, name)
	if err != nil {
		return err
	}
	var tagged []cache.Image
	for _, n := range more {
		full, err := storeName(n)
		if err != nil {
			return err
		}
		if _, d := splitDigest(full); d != "" && d != found.Digest {
			return usagef("image name %q has the digest of another image: %s is %s", n, shownName(found.Name), found.Digest)
		}
		next := found
		next.Name = full
		tagged = append(tagged, next)
	}
	return s.PutImages(tagged)
}

func newImageRemoveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME…",
		Short: "Remove names from the local store; what nothing names any more is freed by cache prune",
		Args:  cobra.MinimumNArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return a.removeImages(args) },
	}
}

func (a *app) removeImages(names []string) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	for _, name := range names {
		found, err := findStored(s, name)
		if err != nil {
			return err
		}
		if _, err := s.RemoveImage(found.Name); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, shownName(found.Name))
	}
	return nil
}
