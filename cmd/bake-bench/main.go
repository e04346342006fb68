// Command bake-bench times bake beside `buildx bake` and buildkitd, one after the other in each round, and prints medians,
// peak memory, ratios and which of them fall short of what is wanted. Without -peers it times bake alone.
//
//	go run ./cmd/bake-bench                                      ours alone
//	go run ./cmd/bake-bench -peers DIR                           DIR holds buildkitd and buildx (.ci/peers DIR)
//	go run ./cmd/bake-bench -peers DIR -n 3 -only 'export|base'  three rounds of some of the work
//
// The peer needs root. On ext4 without a journal, and where overlays cannot be made, everything is done on a journaled
// file system in a file, which is mounted for this command alone and needs root too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

// options are the flags of one run.
type options struct {
	dir    string
	peers  string
	bake   string
	rounds int
	only   *regexp.Regexp
	second bool
	growth bool
	inside bool
}

func main() {
	o := options{only: regexp.MustCompile("")}
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where to work; a folder is made in it and removed")
	flag.StringVar(&o.peers, "peers", "", "folder with buildkitd and buildx; without it only bake is timed")
	flag.StringVar(&o.bake, "bake", "", "program to time as bake (default: this repository's, compiled as for a release)")
	flag.IntVar(&o.rounds, "n", 5, "rounds; medians are printed")
	flag.BoolVar(&o.second, "engine", false, "with -peers: also time `bake --engine` on a buildkitd of its own")
	flag.BoolVar(&o.growth, "growth", true, "also compare 50 with 2,000 targets and 10 with 1,000 steps")
	flag.BoolVar(&o.inside, "mounted", false, "-dir is known to be a journaled file system")
	flag.Func("only", "do only the work whose `name` matches this regular expression", func(s string) (err error) {
		o.only, err = regexp.Compile(s)
		return err
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bake-bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if !o.inside && !journaled(o.dir) {
		return onJournaled(ctx, o.dir)
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	var failed error // the peer's daemon gives up at times: what was measured is printed all the same
	for _, s := range allSeries(b) {
		if o.only.MatchString(s.name) && ctx.Err() == nil {
			if err := b.run(ctx, s); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", s.name, err))
			}
		}
	}
	return errors.Join(b.table.print(os.Stdout, facts(o)), failed)
}
