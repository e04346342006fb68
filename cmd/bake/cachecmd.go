package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/cache"
)

func newCacheCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look after the cache",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCacheUsageCommand(a), newCachePruneCommand(a), newCacheCheckCommand(a))
	return cmd
}

func newCacheUsageCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "du",
		Short: "Say what the cache takes",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return a.cacheUsage() },
	}
}

func (a *app) cacheUsage() error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	usage, err := s.Usage()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 3, ' ', 0)
	for _, line := range usageLines(usage) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", line.what, humanSize(line.bytes), line.note)
	}
	return w.Flush()
}

// usageLine is one line of `bake cache du`.
type usageLine struct {
	what  string
	bytes int64
	note  string
}

func usageLines(u cache.Usage) []usageLine {
	return []usageLine{
		{"layers", u.Layers, "unpacked, as steps see them"},
		{"blobs", u.Blobs, fmt.Sprintf("packed layers, manifests and configs; %s of them in tagged images", humanSize(u.Roots))},
		{"cache mounts", u.Mounts, ""},
		{"entries", u.Entries, "what steps came to"},
		{"logs", u.Logs, ""},
		{"other", u.Other, ""},
		{"total", u.Total, ""},
	}
}

func newCacheCheckCommand(a *app) *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read everything in the cache and compare it with its digests",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.checkCache(cmd.Context(), repair) },
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "remove what is damaged; builds make it again")
	return cmd
}

func (a *app) checkCache(ctx context.Context, repair bool) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	damage, err := s.Check(ctx, repair)
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
		_, err = fmt.Fprintf(a.stdout, "removed %s\n", plural(len(damage), "damaged item"))
	default:
		err = differenceError{plural(len(damage), "item") + " damaged: bake cache check --repair removes what is"}
	}
	return err
}

type pruneOptions struct {
	keep  string
	older time.Duration
	all   bool
}

func newCachePruneCommand(a *app) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Free what was not used for longest; tagged images and running builds keep what they need",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.prune(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.keep, "keep-size", "", "free until the cache takes at most this much, such as 20GB")
	f.DurationVar(&o.older, "older-than", 0, "free what was not used for this long, such as 72h")
	f.BoolVar(&o.all, "all", false, "free everything that no tagged image needs")
	return cmd
}

func (a *app) prune(ctx context.Context, o pruneOptions) error {
	opts := cache.PruneOptions{OlderThan: o.older, All: o.all}
	if o.keep != "" {
		n, err := parseSize(o.keep)
		if err != nil {
			return usagef("--keep-size: %w", err)
		}
		opts.KeepBytes = n
	}
	if !o.all && o.keep == "" && o.older == 0 {
		return usagef("say what to free: --keep-size=20GB, --older-than=72h or --all")
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
	_, err = fmt.Fprintf(a.stdout, "freed %s\n", humanSize(pruned.Bytes))
	return err
}
