package main

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/images"
)

// inspected is one image in the output of `bake image inspect`.
type inspected struct {
	Name     string         `json:"name"`
	Digest   string         `json:"digest"`
	Kind     string         `json:"kind"`
	Recorded string         `json:"recorded,omitempty"`
	Size     int64          `json:"size"` // packed, bytes
	Manifest *v1.Manifest   `json:"manifest"`
	Config   *v1.ConfigFile `json:"config"`
}

func newImageInspectCommand(a *app) *cobra.Command {
	var platform string
	cmd := &cobra.Command{
		Use:     "inspect NAME…",
		Short:   "Print manifests and configs of images as JSON",
		Example: "  bake image inspect hello\n  bake image inspect --platform linux/arm64 alpine:3.22",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.inspectImages(args, platform) },
	}
	cmd.Flags().StringVar(&platform, "platform", "",
		"platform to show from a multi-platform image (default this machine's)")
	return cmd
}

func (a *app) inspectImages(names []string, platform string) error {
	want, err := platformFlag(platform)
	if err != nil {
		return err
	}
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	all := make([]inspected, 0, len(names))
	for _, name := range names {
		found, err := images.Find(s, name)
		if err != nil {
			return err
		}
		image, err := images.Open(s, found, want)
		if err != nil {
			return err
		}
		one := inspected{
			Name: shownName(found.Name), Digest: found.Digest.String(), Kind: found.Kind,
			Size: image.PackedSize(), Manifest: image.Manifest, Config: image.Config,
		}
		if !found.Recorded.IsZero() {
			one.Recorded = found.Recorded.UTC().Format("2006-01-02T15:04:05Z")
		}
		all = append(all, one)
	}
	return printJSON(a.stdout, all)
}
