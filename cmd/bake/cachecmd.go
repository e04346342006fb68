package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded"
)

func newCacheCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Inspect, prune and check the cache",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCacheUsageCommand(a), newCachePruneCommand(a), newCacheCheckCommand(a))
	return cmd
}

func newCacheCheckCommand(a *app) *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Verify the contents of the cache against their digests",
		Long:    "List damaged items, and exit with 6 if there are any, unless --repair removes them.",
		Example: "  bake cache check\n  bake cache check --repair",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.checkCache(cmd.Context(), repair) },
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "remove damaged items; builds create them again")
	return cmd
}

func (a *app) checkCache(ctx context.Context, repair bool) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	damage, err := s.Check(ctx, cache.CheckOptions{
		Repair: repair, Layer: embedded.CheckLayer, Base: embedded.CheckBase,
	})
	if err != nil {
		return err
	}
	for _, d := range damage {
		fmt.Fprintf(a.stdout, "%s: %s\n", d.Path, d.What)
	}
	switch {
	case len(damage) == 0:
		_, err = fmt.Fprintln(a.stdout, "nothing is damaged")
	case repair:
		_, err = fmt.Fprintf(a.stdout, "repaired %s\n", plural(len(damage), "damaged item"))
	default:
		err = differenceError{plural(len(damage), "item") + " damaged; remove them with bake cache check --repair"}
	}
	return err
}

// pruneOptions are the flags of `bake cache prune`.
type pruneOptions struct {
	keep  string
	older string
	all   bool
}

func newCachePruneCommand(a *app) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove the least recently used items of the cache",
		Long: "Remove items, least recently used first, except those that tagged images, pins and\n" +
			"running builds need.",
		Example: "  bake cache prune --keep-size=20GB\n  bake cache prune --older-than=30d",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.prune(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.keep, "keep-size", "", "remove items until the cache occupies at most this size, such as 20GB")
	f.StringVar(&o.older, "older-than", "", "remove items not used for this long, such as 12h, 30d or 4w")
	f.BoolVar(&o.all, "all", false, "remove everything except build history and the layers of tagged images and pins")
	return cmd
}

func (a *app) prune(ctx context.Context, o pruneOptions) error {
	opts := cache.PruneOptions{All: o.all}
	var err error
	if o.keep != "" {
		if opts.KeepBytes, err = cache.ParseSize(o.keep); err != nil {
			return usagef("--keep-size: %w", err)
		}
		opts.All = opts.All || opts.KeepBytes == 0
	}
	if o.older != "" {
		if opts.OlderThan, err = parseAge(o.older); err != nil {
			return usagef("--older-than: %w", err)
		}
	}
	if opts == (cache.PruneOptions{}) {
		return usagef("no limit given; add --keep-size=20GB, --older-than=30d or --all")
	}
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	pruned, err := s.Prune(ctx, opts)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "freed %s, %s left\n", humanSize(pruned.Bytes), humanSize(pruned.Total))
	return err
}

// parseAge reads a time such as 90m, 12h, 30d or 4w.
func parseAge(text string) (time.Duration, error) {
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		number, ok := strings.CutSuffix(text, unit)
		if n, err := strconv.ParseFloat(number, 64); ok && err == nil && n > 0 && n < 100_000 {
			return time.Duration(n * float64(length)), nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration; use 12h, 30d or 4w", text)
	}
	return d, nil
}
