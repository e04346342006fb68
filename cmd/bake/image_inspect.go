package main

import (
	"encoding/json"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
)

// inspected is what `bake image inspect` prints of one image.
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
		Use:   "inspect NAME…",
		Short: "Print the manifest and config of images as JSON",
		Args:  cobra.MinimumNArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return a.inspectImages(args, platform) },
	}
	cmd.Flags().StringVar(&platform, "platform", "", "which platform of an image that has several")
	return cmd
}

func (a *app) inspectImages(names []string, platform string) error {
	want := platforms.DefaultSpec()
	if platform != "" {
		var err error
		if want, err = platforms.Parse(platform); err != nil {
			return usagef("--platform: %w", err)
		}
	}
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	all := make([]inspected, 0, len(names))
	for _, name := range names {
		found, err := findStored(s, name)
		if err != nil {
			return err
		}
		image, err := openStored(s, found, want)
		if err != nil {
			return err
		}
		one := inspected{
			Name: shownName(found.Name), Digest: found.Digest.String(), Kind: found.Kind,
			Size: image.size(), Manifest: image.Manifest, Config: image.Config,
		}
		if !found.Recorded.IsZero() {
			one.Recorded = found.Recorded.UTC().Format("2006-01-02T15:04:05Z")
		}
		all = append(all, one)
	}
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(all)
}
