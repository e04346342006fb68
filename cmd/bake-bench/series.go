package main

import (
	"strings"

	"github.com/bakebuild/bake/executor/executortest"
)

// series is a sequence of measured builds with one project and one cache per tool.
type series struct {
	name    string // for -only
	project project
	fresh   bool   // every round, not only the first, starts with an empty cache
	alone   bool   // only bake runs it
	floor   string // row of the floor of the last step; "" for none
	prepare []step // steps before the others if the cache is empty
	steps   []step // steps of each round
}

// step is one build.
type step struct {
	row    string // of the table; "" if the step is not measured
	output string // see job
	// change, if not nil, returns the file of the project to change before the build.
	change func(round int) string
}

// goal holds the minimum and the aim of a row of the table, as ratios of the peer's time to ours.
type goal struct {
	row        string
	least, aim float64
}

// Minimum and aim of the ratio of the peer's peak memory to ours.
const leastMemory, aimMemory = 2, 4

// Minimum and aim of the ratio of the peer's time to ours on a daemon, if nothing changed.
const leastEngine, aimEngine = 2, 5

// leastBefore is the minimum of the ratio of the time of the build from before to that of now: 5 % slower.
const leastBefore = 0.95

// maxFloors is the maximum time of a build of an unchanged project, as a multiple of the floor.
const maxFloors = 3

// The rows of the table.
const (
	rowStart  = "1 target, nothing changed"
	rowSame   = "50 targets, nothing changed"
	rowMany   = "200 targets, nothing changed"
	rowOne    = "50 targets, one service changed"
	rowShared = "50 targets, shared file changed"
	rowCold   = "50 targets, cold"
	rowPushed = "50 targets, nothing changed, pushed"
	rowBase   = "pull, unpack and first RUN on a 140 MB base"
	rowExport = "export of a new 300 MB layer, gzip"
	rowFiles  = "context of 100,000 files, nothing changed"
	rowSteps  = "20 RUN that do nothing, base on disk"
	rowFloor  = "the floor: start, plan, scan"
)

func goals() []goal {
	return []goal{
		{rowStart, 2, 5}, {rowSame, 40, 100},
		{rowMany, 150, 300}, {rowOne, 30, 60}, {rowShared, 6, 10}, {rowCold, 5, 12},
		{rowPushed, 40, 100}, {rowBase, 1.5, 3}, {rowExport, 2, 3.5}, {rowFiles, 10, 20},
		{rowSteps, 6.5, 10},
	}
}

func allSeries(b *bench) []series {
	fifty, repo := b.services(50)
	service := func(round int) string { return repo.ServiceFile(round % repo.Services) }
	library := func(int) string { return repo.LibraryFile() }
	many, _ := b.services(200)
	copies := "FROM " + b.registry + "/" + smallBase + "\nCOPY tree /tree\n"
	runs := "FROM " + b.registry + "/" + largeBase + "\nRUN [\"/bin/tool\", \"/out\"]\n"
	tree := func(int) string { return first }
	nothing := "FROM " + b.registry + "/" + smallBase + "\nCOPY " + first + " /\n" +
		strings.Repeat("RUN [\""+executortest.TruePath+"\"]\n", 20)
	all := []series{
		{name: "50", project: fifty, fresh: true, floor: rowFloor, steps: []step{
			{row: rowCold, output: "cacheonly"}, {row: rowSame, output: "cacheonly"},
			{row: rowOne, output: "cacheonly", change: service}, {row: rowShared, output: "cacheonly", change: library},
		}},
		{name: "one", project: single(copies, files{10, 10_000}), prepare: []step{{output: "cacheonly"}},
			steps: []step{{row: rowStart, output: "cacheonly"}}},
		{name: "pushed", project: fifty, prepare: []step{{output: "push"}},
			steps: []step{{row: rowPushed, output: "push"}}},
		{name: "200", project: many, prepare: []step{{output: "cacheonly"}},
			steps: []step{{row: rowMany, output: "cacheonly"}}},
		{name: "base", project: single(runs, files{}), fresh: true, steps: []step{{row: rowBase, output: "cacheonly"}}},
		{name: "export", project: single(copies, files{11_000, 300_000_000}), steps: []step{
			{output: "cacheonly", change: tree}, {row: rowExport, output: "oci"},
		}},
		{name: "files", project: single(copies, files{100_000, 300_000_000}), prepare: []step{{output: "cacheonly"}},
			steps: []step{{row: rowFiles, output: "cacheonly"}}},
		{name: "steps", project: single(nothing, files{1, 1000}), prepare: []step{{output: "cacheonly"}},
			steps: []step{{row: rowSteps, output: "cacheonly", change: tree}}},
	}
	if b.growth {
		all = append(all, b.growthSeries()...)
	}
	return all
}

// growth is work of two sizes. The time per unit must not be higher for the larger one.
type growth struct {
	unit  string
	sizes [2]int
}

func growths() []growth {
	return []growth{{"targets", [2]int{50, 2000}}, {"steps in a chain", [2]int{10, 1000}}}
}

// The two rows of each size.
const growCold, growSame = "cold", "nothing changed"

// growthSeries returns the series that measure growth, for bake only. The larger size is built cold only once.
func (b *bench) growthSeries() []series {
	var all []series
	for _, g := range growths() {
		for i, size := range g.sizes {
			p, _ := b.services(size)
			if g.unit != growths()[0].unit {
				p = b.chain(size)
			}
			cold := step{row: g.row(size, growCold), output: "cacheonly"}
			same := step{row: g.row(size, growSame), output: "cacheonly"}
			s := series{name: "growth of " + g.unit, project: p, alone: true, prepare: []step{cold},
				steps: []step{same}}
			s.fresh = i == 0
			all = append(all, s)
		}
	}
	return all
}
