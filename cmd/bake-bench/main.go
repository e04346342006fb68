// Command bake-bench compares bake with buildx bake on buildkitd. In each round the tools run one after the other. It
// prints medians, peak memory and ratios, and lists the ratios below their minimum or aim. Without -peers it measures
// only bake. With -before it also measures another build of bake, and prints the ratios of both.
//
//	go run ./cmd/bake-bench                                      only bake
//	go run ./cmd/bake-bench -peers DIR                           DIR contains buildkitd and buildx (.ci/peers DIR)
//	go run ./cmd/bake-bench -peers DIR -n 3 -only 'export|base'  three rounds of some series
//	go run ./cmd/bake-bench -before OLD -n 9 -only growth        a change, compared with the program OLD
//
// The peer needs root. If -dir is on a file system without a journal, or not on ext4, XFS or Btrfs, everything runs on
// a journaled file system in a file. It is mounted only for this command, which needs root too.
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
	before string
	rounds int
	only   *regexp.Regexp
	second bool
	growth bool
	inside bool
}

func main() {
	o := options{only: regexp.MustCompile("")}
	flag.StringVar(&o.dir, "dir", os.TempDir(), "parent of the temporary working directory")
	flag.StringVar(&o.peers, "peers", "", "directory with buildkitd and buildx; if empty, only bake is measured")
	flag.StringVar(&o.bake, "bake", "", "program to measure as bake (default: compile this repository's as for a "+
		"release)")
	flag.StringVar(&o.before, "before", "", "another build of bake to measure in the same rounds, such as one from "+
		"before a change")
	flag.IntVar(&o.rounds, "n", 5, "number of rounds")
	flag.BoolVar(&o.second, "engine", false, "with -peers: also measure bake --engine with its own buildkitd")
	flag.BoolVar(&o.growth, "growth", true, "also compare 50 with 2,000 targets and 10 with 1,000 steps")
	flag.BoolVar(&o.inside, "mounted", false, "assume that -dir is on a journaled file system")
	flag.Func("only", "run only the series whose `name` matches this regular expression", func(s string) (err error) {
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
	var failed error // the peer's daemon sometimes fails; the results so far are printed anyway
	for _, s := range allSeries(b) {
		if o.only.MatchString(s.name) && ctx.Err() == nil {
			if err := b.run(ctx, s); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", s.name, err))
			}
		}
	}
	return errors.Join(b.table.print(os.Stdout, facts(o)), failed)
}
