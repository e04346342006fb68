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
	fmt.Fprintln(w, "| work | output | bake | buildx bake | ratio |")
	fmt.Fprintln(w, "|---|---|---|---|---|")
	for _, c := range t.order {
		if c.tool != "bake" {
			continue
		}
		ours, _ := t.median(c)
		theirs, ok := t.median(cell{c.output, c.work, "buildx bake"})
		peer, ratio := "-", "-"
		if ok {
			peer = theirs.Round(time.Millisecond).String()
			ratio = fmt.Sprintf("%.1f", float64(theirs)/float64(ours))
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", c.work, c.output, ours.Round(time.Millisecond), peer, ratio)
	}
}
