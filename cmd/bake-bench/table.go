package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// table holds the samples of all rounds, by row and tool.
type table struct {
	samples  map[string]map[string][]sample
	withPeer bool // the peer is measured too
}

func newTable(withPeer bool) table { return table{map[string]map[string][]sample{}, withPeer} }

func (t table) add(row, tool string, s sample) {
	if t.samples[row] == nil {
		t.samples[row] = map[string][]sample{}
	}
	t.samples[row][tool] = append(t.samples[row][tool], s)
}

// median returns the median times and the highest peak of a row and tool. It reports false without samples.
func (t table) median(row, tool string) (sample, bool) {
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

// report is the text that is printed. err holds the errors of writing it.
type report struct {
	w                    io.Writer
	err                  error
	belowLeast, belowAim []string // rows below the minimum, and rows between the minimum and the aim
}

func (r *report) line(format string, args ...any) {
	_, err := fmt.Fprintf(r.w, format+"\n", args...)
	r.err = errors.Join(r.err, err)
}

// print writes the report in Markdown.
func (t table) print(w io.Writer, facts string) error {
	r := &report{w: w}
	r.line("%s\n", facts)
	t.printRows(r)
	t.printBefore(r)
	t.printEngine(r)
	t.printFloor(r)
	t.printGrowth(r)
	r.line("")
	if !t.withPeer {
		r.line("To compare with buildx bake, use -peers.")
	}
	r.line("Below the minimum: %s.", listed(r.belowLeast))
	if t.withPeer {
		r.line("Below the aim: %s.", listed(r.belowAim))
	}
	return r.err
}

func listed(rows []string) string {
	if len(rows) == 0 {
		return "none"
	}
	return strings.Join(rows, "; ")
}

func (t table) printRows(r *report) {
	r.line("| work | bake | buildx bake | times faster | minimum, aim | CPU | CPU, peer | memory | memory, peer | " +
		"times less | bake --engine |")
	r.line("|---|---|---|---|---|---|---|---|---|---|---|")
	for _, g := range goals() {
		ours, ok := t.median(g.row, nameBake)
		if !ok {
			continue
		}
		peer, hasPeer := t.median(g.row, nameBuildx)
		second, other := t.median(g.row, nameOnDaemon)
		faster, less := "-", "-"
		if hasPeer {
			faster = r.check(g.row, float64(peer.wall)/float64(ours.wall), g.least, g.aim)
			less = r.check("memory of "+g.row, float64(peer.peak)/float64(ours.peak), leastMemory, aimMemory)
		}
		r.line("| %s | %s | %s | %s | %g, %g | %s | %s | %s | %s | %s | %s |", g.row, seconds(ours.wall, true),
			seconds(peer.wall, hasPeer), faster, g.least, g.aim,
			seconds(ours.cpu, true), seconds(peer.cpu, hasPeer), megabytes(ours.peak, true),
			megabytes(peer.peak, hasPeer), less, seconds(second.wall, other))
	}
}

// printBefore compares two builds of bake, in all rows that both have.
func (t table) printBefore(r *report) {
	headed := false
	for _, row := range slices.Sorted(maps.Keys(t.samples)) {
		now, ok := t.median(row, nameBake)
		old, both := t.median(row, nameBefore)
		if !ok || !both {
			continue
		}
		if !headed {
			r.line("\n| now and before | time | before | ratio | CPU | before | ratio | memory | before |" +
				"\n|---|---|---|---|---|---|---|---|---|")
			headed = true
		}
		r.line("| %s | %s | %s | %s | %s | %s | %s | %s | %s |", row, seconds(now.wall, true), seconds(old.wall, true),
			r.check("time of "+row+", compared with before", float64(old.wall)/float64(now.wall), leastBefore, 1),
			seconds(now.cpu, true), seconds(old.cpu, true),
			r.check("CPU of "+row+", compared with before", float64(old.cpu)/float64(now.cpu), leastBefore, 1),
			megabytes(now.peak, true), megabytes(old.peak, true))
	}
}

// printEngine compares the two clients of a daemon, each with its own daemon.
func (t table) printEngine(r *report) {
	peer, hasPeer := t.median(rowSame, nameBuildx)
	second, other := t.median(rowSame, nameOnDaemon)
	if hasPeer && other {
		what := rowSame + ", on a daemon"
		r.line("\n%q takes %s with %s and %s with %s: %s times faster; minimum %d, aim %d.", what,
			seconds(second.wall, true), nameOnDaemon,
			seconds(peer.wall, true), nameBuildx, r.check(what, float64(peer.wall)/float64(second.wall), leastEngine,
				aimEngine), leastEngine, aimEngine)
	}
}

// check returns a ratio as text and records it if it is below the minimum or the aim.
func (r *report) check(what string, ratio, least, aim float64) string {
	text := fmt.Sprintf("%.3g", ratio)
	switch {
	case ratio < least:
		r.belowLeast = append(r.belowLeast, fmt.Sprintf("%s (%s of %g)", what, text, least))
	case ratio < aim:
		r.belowAim = append(r.belowAim, fmt.Sprintf("%s (%s of %g)", what, text, aim))
	}
	return text
}

func (t table) printFloor(r *report) {
	least, ok := t.median(rowFloor, nameBake)
	same, both := t.median(rowSame, nameBake)
	if !ok || !both {
		return
	}
	times := float64(same.wall) / float64(least.wall)
	r.line("\nThe floor (start, plan and stat of each file of the context) takes %s. %q takes %.2g times that; the "+
		"maximum is %d.",
		seconds(least.wall, true), rowSame, times, maxFloors)
	if times > maxFloors {
		r.belowLeast = append(r.belowLeast, rowSame+", compared with the floor")
	}
}

func (g growth) row(size int, work string) string {
	return fmt.Sprintf("growth: %d %s, %s", size, g.unit, work)
}

func (t table) printGrowth(r *report) {
	headed := false
	for _, g := range growths() {
		for _, work := range []string{growCold, growSame} {
			little, ok := t.median(g.row(g.sizes[0], work), nameBake)
			much, both := t.median(g.row(g.sizes[1], work), nameBake)
			if !ok || !both {
				continue
			}
			if !headed {
				r.line("\n| growth, ours alone | few | each | many | each | memory, few | memory, many " +
					"|\n|---|---|---|---|---|---|---|")
				headed = true
			}
			few, many := little.wall/time.Duration(g.sizes[0]), much.wall/time.Duration(g.sizes[1])
			r.line("| %d and %d %s, %s | %s | %s | %s | %s | %s | %s |", g.sizes[0], g.sizes[1], g.unit, work,
				seconds(little.wall, true), milliseconds(few),
				seconds(much.wall, true), milliseconds(many), megabytes(little.peak, true), megabytes(much.peak, true))
			if many > few {
				r.belowLeast = append(r.belowLeast, fmt.Sprintf("growth of %s, %s", g.unit, work))
			}
		}
	}
}

// seconds formats a time for the table; "-" if it was not measured.
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
