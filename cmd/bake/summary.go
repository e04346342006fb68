package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/report"
)

// summarize prints to stderr what a build did: its steps in one line, whose counts add up, then its images. It is up to
// date only if no step ran and no image changed: a changed CMD runs nothing and makes another image.
func (a *app) summarize(done *executor.Report) {
	counts, total := map[executor.StepStatus]int{}, 0
	for _, s := range done.Steps {
		shown := s.Same == "" || s.Status == executor.StatusRan || s.Status == executor.StatusFailed
		if shown && s.Status != executor.StatusNotNeeded {
			counts[s.Status]++
			total++
		}
	}
	ran, failed := counts[executor.StatusRan], counts[executor.StatusFailed]
	changed := slices.ContainsFunc(done.Images, func(i executor.ImageResult) bool {
		return i.Change == executor.Changed
	})
	if ran == 0 && failed == 0 && !changed {
		fmt.Fprintf(a.stderr, "up to date (%s cached)\n", plural(counts[executor.StatusCached], "step"))
	} else {
		line := fmt.Sprintf("%s: %d ran, %d cached", plural(total, "step"), ran, counts[executor.StatusCached])
		if failed > 0 {
			line += fmt.Sprintf(", %d failed, %d not started", failed, counts[executor.StatusSkipped])
		}
		fmt.Fprintf(a.stderr, "%s, in %s\n", line, report.FormatDuration(done.Completed.Sub(done.Started)))
	}
	for _, image := range done.Images {
		did := "built"
		if image.Change == executor.Unchanged {
			did = "unchanged"
		}
		for _, tag := range image.Tags {
			fmt.Fprintf(a.stderr, "%s %s %s\n", did, shownName(tag), image.Digest)
		}
	}
}

// plural returns a count with its noun, which takes an s in the plural.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
