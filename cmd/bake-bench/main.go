// Command bake-bench times bake beside `buildx bake` and buildkitd on a generated monorepo, in one interleaved run, and
// prints medians and ratios. It needs root for the peer. Use a journaled file system for -dir: on ext4 without a
// journal, creating files after many deletions is slow for both.
//
//	go run ./cmd/bake-bench -dir /mnt/journaled                  ours alone
//	go run ./cmd/bake-bench -dir /mnt/journaled -peers DIR       DIR holds buildkitd and buildx (.ci/peers DIR)
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

// options are the flags of one run.
type options struct {
	dir      string
	peers    string
	services int
	rounds   int
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "where to work; a folder is made in it and removed (default: the temporary directory)")
	flag.StringVar(&o.peers, "peers", "", "folder with buildkitd and buildx; without it only bake is timed")
	flag.IntVar(&o.services, "services", 50, "services of the monorepo")
	flag.IntVar(&o.rounds, "n", 5, "rounds; medians are printed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bake-bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.Close()
	for _, output := range []string{"cacheonly", "oci"} {
		for round := range o.rounds {
			for _, tool := range b.tools {
				if err := b.round(ctx, tool, output, round); err != nil {
					return fmt.Errorf("%s, output %s, round %d: %w", tool.name(), output, round+1, err)
				}
			}
		}
	}
	b.table.print(os.Stdout, o)
	return nil
}
