package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// table gathers the samples of all rounds, by row and tool.
type table struct {
	samples map[string]map[string][]sample
	beside  bool // the peer was timed too
}

func newTable(beside bool) table { return table{map[string]map[string][]sample{}, beside} }

func (t table) add(row, tool string, s sample) {
	if t.samples[row] == nil {
		t.samples[row] = map[string][]sample{}
	}
	t.samples[row][tool] = append(t.samples[row][tool], s)
}

// middle is the median of the times and the highest peak.
func (t table) middle(row, tool string) (sample, bool) {
	all := t.samples[row][tool]
	if len(all) == 0 {
		return sample{}, false
	}
	var wall, cpu []time.Duration
	var peak int64
	for _, s := range all {
		wall, cpu, peak = append(wall, s.wall), append(cpu, s.cpu), max(peak, s.peak)
	}
	slices.Sort(wall)
	slices.Sort(cpu)
	return sample{wall[len(wall)/2], cpu[len(cpu)/2], peak}, true
}

// report is text that is written in parts; the first error counts.
type report struct {
	w           io.Writer
	err         error
	short, less []string // rows below what is wanted, and between that and the aim
}

func (r *report) line(format string, args ...any) {
	_, err := fmt.Fprintf(r.w, format+"\n", args...)
	r.err = errors.Join(r.err, err)
}

// print writes everything in markdown.
func (t table) print(w io.Writer, facts string) error {
	r := &report{w: w}
	r.line("%s\n", facts)
	t.printRows(r)
	t.printEngine(r)
	t.printFloor(r)
	t.printGrowth(r)
	r.line("")
	if !t.beside {
		r.line("Without -peers nothing is compared with the peer.")
	}
	r.line("Short of what is wanted: %s.", listed(r.short))
	if t.beside {
		r.line("Short of the aim only: %s.", listed(r.less))
	}
	return r.err
}

func listed(rows []string) string {
	if len(rows) == 0 {
		return "nothing that was measured"
	}
	return strings.Join(rows, "; ")
}

func (t table) printRows(r *report) {
	r.line("| work | bake | buildx bake | times faster | wanted, aim | CPU | CPU, peer | memory | memory, peer | times less | bake --engine |")
	r.line("|---|---|---|---|---|---|---|---|---|---|---|")
	for _, g := range goals() {
		ours, ok := t.middle(g.row, nameBake)
		if !ok {
			continue
		}
		peer, beside := t.middle(g.row, nameBuildx)
		second, other := t.middle(g.row, nameOnDaemon)
		faster, less := "-", "-"
		if beside {
			faster = r.judge(g.row, float64(peer.wall)/float64(ours.wall), g.least, g.aim)
			less = r.judge("memory of "+g.row, float64(peer.peak)/float64(ours.peak), leastMemory, aimMemory)
		}
		r.line("| %s | %s | %s | %s | %g, %g | %s | %s | %s | %s | %s | %s |", g.row, seconds(ours.wall, true), seconds(peer.wall, beside), faster, g.least, g.aim,
			seconds(ours.cpu, true), seconds(peer.cpu, beside), megabytes(ours.peak, true), megabytes(peer.peak, beside), less, seconds(second.wall, other))
	}
}

// printEngine compares the two clients of a daemon, each with one of its own.
func (t table) printEngine(r *report) {
	peer, beside := t.middle(rowSame, nameBuildx)
	second, other := t.middle(rowSame, nameOnDaemon)
	if beside && other {
		what := rowSame + ", on a daemon"
		r.line("\n%q takes %s with %s and %s with %s: %s times faster; wanted %d, aim %d.", what, seconds(second.wall, true), nameOnDaemon,
			seconds(peer.wall, true), nameBuildx, r.judge(what, float64(peer.wall)/float64(second.wall), leastEngine, aimEngine), leastEngine, aimEngine)
	}
}

// judge is a ratio as text; what falls short is noted.
func (r *report) judge(what string, ratio, least, aim float64) string {
	text := fmt.Sprintf("%.3g", ratio)
	switch {
	case ratio < least:
		r.short = append(r.short, fmt.Sprintf("%s (%s of %g)", what, text, least))
	case ratio < aim:
		r.less = append(r.less, fmt.Sprintf("%s (%s of %g)", what, text, aim))
	}
	return text
}

func (t table) printFloor(r *report) {
	least, ok := t.middle(rowFloor, nameBake)
	same, both := t.middle(rowSame, nameBake)
	if !ok || !both {
		return
	}
	times := float64(same.wall) / float64(least.wall)
	r.line("\nStart, plan and a look at each file of the context alone take %s: %q takes %.2g times that; at most %d times is wanted.",
		seconds(least.wall, true), rowSame, times, mostFloors)
	if times > mostFloors {
		r.short = append(r.short, rowSame+" beside the floor")
	}
}

func (g growth) row(size int, work string) string {
	return fmt.Sprintf("growth: %d %s, %s", size, g.unit, work)
}

func (t table) printGrowth(r *report) {
	headed := false
	for _, g := range growths() {
		for _, work := range []string{growCold, growSame} {
			little, ok := t.middle(g.row(g.sizes[0], work), nameBake)
			much, both := t.middle(g.row(g.sizes[1], work), nameBake)
			if !ok || !both {
				continue
			}
			if !headed {
				r.line("\n| growth, ours alone | few | each | many | each | memory, few | memory, many |\n|---|---|---|---|---|---|---|")
				headed = true
			}
			few, many := little.wall/time.Duration(g.sizes[0]), much.wall/time.Duration(g.sizes[1])
			r.line("| %d and %d %s, %s | %s | %s | %s | %s | %s | %s |", g.sizes[0], g.sizes[1], g.unit, work, seconds(little.wall, true), milliseconds(few),
				seconds(much.wall, true), milliseconds(many), megabytes(little.peak, true), megabytes(much.peak, true))
			if many > few {
				r.short = append(r.short, fmt.Sprintf("growth of %s, %s", g.unit, work))
			}
		}
	}
}

// seconds is a time in the table, "-" if it was not taken.
func seconds(d time.Duration, known bool) string {
	if !known {
		return "-"
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.3g ms", float64(d)/1e6) }

func megabytes(bytes int64, known bool) string {
	if !known {
		return "-"
	}
	return fmt.Sprintf("%d MB", bytes/1e6)
}
