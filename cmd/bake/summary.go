package main

import (
	"fmt"
	"strings"

	"github.com/bakebuild/bake/executor"
)

// summarize says on stderr what a build did, in one line, and where its images are.
func (a *app) summarize(report *executor.Report) {
	counts := map[executor.StepStatus]int{}
	for _, s := range report.Steps {
		counts[s.Status]++
	}
	total := len(report.Steps)
	switch ran, failed := counts[executor.StatusRan], counts[executor.StatusFailed]; {
	case failed > 0:
		fmt.Fprintf(a.stderr, "%s: %d ran, %d cached, %d failed, %d not started\n", plural(total, "step"), ran,
			counts[executor.StatusCached], failed, counts[executor.StatusSkipped])
	case ran == 0:
		fmt.Fprintf(a.stderr, "nothing changed: %s, none had to run\n", plural(total, "step"))
	default:
		fmt.Fprintf(a.stderr, "%s: %d ran, %d cached\n", plural(total, "step"), ran, counts[executor.StatusCached])
	}
	for _, image := range report.Images {
		for _, tag := range image.Tags {
			fmt.Fprintf(a.stderr, "built %s %s\n", shownName(tag), image.Digest)
		}
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
