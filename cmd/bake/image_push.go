package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/images"
	"github.com/bakebuild/bake/executor/registry"
)

// pushOptions are the flags of `bake image push`.
type pushOptions struct {
	platform string
	progress string
}

func newImagePushCommand(a *app) *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push NAME…",
		Short: "Push images from the local store to their registries",
		Long:  "Push each image to the registry in its name. Tags move after all blobs and manifests arrive.",
		Example: "  bake image push registry.example.com/api:1.2\n" +
			"  bake image push --platform linux/arm64 registry.example.com/api:1.2",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.pushImages(cmd.Context(), args, o) },
	}
	cmd.Flags().StringVar(&o.platform, "platform", "", "push only this platform of a multi-platform image")
	cmd.Flags().StringVar(&o.progress, "progress", "",
		"progress display: auto, plain, tty, quiet, rawjson or none (default auto)")
	return cmd
}

// pushImages pushes all images at once: shared blobs are sent once, and no tag moves if one image fails.
func (a *app) pushImages(ctx context.Context, names []string, o pushOptions) error {
	var only *ocispecs.Platform
	if o.platform != "" {
		p, err := platformFlag(o.platform)
		if err != nil {
			return err
		}
		only = &p
	}
	s, err := a.open(false)
	if err != nil {
		return err
	}
	defer s.Close()
	var list []registry.PushImage
	var lines []string
	for _, name := range names {
		image, d, err := images.Content(s.store, name, only)
		if err != nil {
			return err
		}
		list = append(list, image)
		lines = append(lines, fmt.Sprintf("%s %s", shownName(image.Refs[0]), d))
	}
	if err := s.push(ctx, list, o.progress); err != nil {
		return err
	}
	for _, line := range lines {
		fmt.Fprintln(a.stdout, line)
	}
	return nil
}

// push pushes images and displays that as one step with a line for each blob.
func (s *session) push(ctx context.Context, list []registry.PushImage, mode string) (err error) {
	display, err := startProgress(ctx, s.app.stderr, mode, nil)
	if err != nil {
		return err
	}
	name := "push " + shownName(list[0].Refs[0])
	if len(list) > 1 {
		name += fmt.Sprintf(" and %d more", len(list)-1)
	}
	var mu sync.Mutex
	send := func(e executor.Event) {
		mu.Lock()
		defer mu.Unlock()
		e.Time, e.Step, e.Name = time.Now(), digest.FromString(name), name
		display.Event(e)
	}
	send(executor.Event{Kind: executor.KindStart})
	err = s.client.Push(ctx, list, func(blob string, sent, size int64) {
		send(executor.Event{Kind: executor.KindProgress, ID: blob, Current: sent, Total: size})
	})
	send(executor.Event{Kind: executor.KindDone, Err: err})
	if closeErr := display.Close(); err == nil {
		err = closeErr
	}
	return err
}
