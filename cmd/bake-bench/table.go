package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// cell names one series of times.
type cell struct{ output, work, tool string }

// table gathers the times of all rounds.
type table struct {
	times map[cell][]time.Duration
	order []cell
}

func (t *table) add(c cell, d time.Duration) {
	if _, seen := t.times[c]; !seen {
		t.order = append(t.order, c)
	}
	t.times[c] = append(t.times[c], d)
}

func (t *table) median(c cell) (time.Duration, bool) {
	all := slices.Clone(t.times[c])
	if len(all) == 0 {
		return 0, false
	}
	slices.Sort(all)
	return all[len(all)/2], true
}

// print writes the table in markdown, with the facts of the machine that it was measured on.
func (t *table) print(w io.Writer, o options) {
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(w, "%d services, medians of %d rounds, %d CPUs, %s, load %s\n\n",
		o.services, o.rounds, runtime.NumCPU(), runtime.Version(), strings.Join(strings.Fields(string(load))[:1], ""))
	fmt.Fprintln(w, "| work | output | bake | buildx bake | ratio | bake --engine | ratio |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	for _, c := range t.order {
		if c.tool != "bake" {
			continue
		}
		ours, _ := t.median(c)
		peer, known := t.median(cell{c.output, c.work, nameBuildx})
		second, other := t.median(cell{c.output, c.work, nameOnDaemon})
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n", c.work, c.output, shown(ours, true), shown(peer, known),
			ratio(peer, ours, known), shown(second, other), ratio(peer, second, known && other))
	}
}

// shown is a time in the table, "-" if it was not taken.
func shown(d time.Duration, known bool) string {
	if !known {
		return "-"
	}
	return d.Round(time.Millisecond).String()
}

// ratio is how many times longer the peer took.
func ratio(peer, ours time.Duration, known bool) string {
	if !known {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(peer)/float64(ours))
}
