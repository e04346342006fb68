package main

import (
	"fmt"
	"strings"

	"github.com/bakebuild/bake/executor"
)

// summarize prints to stderr how many steps a build ran, in one line, and the names of its images.
func (a *app) summarize(report *executor.Report) {
	counts, total := map[executor.StepStatus]int{}, 0
	for _, s := range report.Steps {
		if s.Same == "" || s.Status == executor.StatusRan || s.Status == executor.StatusFailed {
			counts[s.Status]++
			total++
		}
	}
	switch ran, failed := counts[executor.StatusRan], counts[executor.StatusFailed]; {
	case failed > 0:
		fmt.Fprintf(a.stderr, "%s: %d ran, %d cached, %d failed, %d not started\n", plural(total, "step"), ran,
			counts[executor.StatusCached], failed, counts[executor.StatusSkipped])
	case ran == 0:
		fmt.Fprintf(a.stderr, "up to date (%s cached)\n", plural(total, "step"))
	default:
		fmt.Fprintf(a.stderr, "%s: %d ran, %d cached\n", plural(total, "step"), ran, counts[executor.StatusCached])
	}
	for _, image := range report.Images {
		for _, tag := range image.Tags {
			fmt.Fprintf(a.stderr, "built %s %s\n", shownName(tag), image.Digest)
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
