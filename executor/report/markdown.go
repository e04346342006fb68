package report

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/bakebuild/bake/executor"
)

// What a summary shows at most, so that it stays far below the 1 MiB that a CI service takes of one step.
const (
	maxSummaryImages   = 100
	maxSummarySteps    = 20
	maxSummaryFailures = 10
	maxSummaryLines    = 20
	maxSummaryLine     = 300 // bytes of one line of a log
)

// WriteMarkdown writes a summary of the run as GitHub shows it: what became of it, failures with their last lines, images
// and the steps that took longest. No text of a build can leave its place: all its punctuation is written as entities.
func (r Run) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	r.heading(&b)
	r.failures(&b)
	r.images(&b)
	r.steps(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Run) heading(b *strings.Builder) {
	verdict := "built"
	if r.Err != nil {
		verdict = "failed"
	}
	if r.Report == nil { // it never came to run
		fmt.Fprintf(b, "### bake: %s\n\n", verdict)
		return
	}
	counts := map[executor.StepStatus]int{}
	for _, s := range r.Report.Steps {
		counts[s.Status]++
	}
	fmt.Fprintf(b, "### bake: %s in %s\n\n", verdict, shownTime(r.Report.Completed.Sub(r.Report.Started)))
	fmt.Fprintf(b, "%d ran · %d cached", counts[executor.StatusRan], counts[executor.StatusCached])
	if r.Err != nil {
		fmt.Fprintf(b, " · %d failed · %d not started", counts[executor.StatusFailed], counts[executor.StatusSkipped])
	}
	b.WriteString("\n\n")
}

func (r Run) failures(b *strings.Builder) {
	if r.Err == nil {
		return
	}
	all := []error{r.Err}
	var several *executor.Failures
	if errors.As(r.Err, &several) {
		all = several.All
	}
	for _, err := range all[:min(len(all), maxSummaryFailures)] {
		fmt.Fprintf(b, "**%s**\n\n", inert(err.Error(), maxName))
		var step *executor.StepError
		if !errors.As(err, &step) || len(step.Last) == 0 {
			continue
		}
		b.WriteString("<pre>")
		for _, line := range step.Last[max(0, len(step.Last)-maxSummaryLines):] {
			b.WriteString(inert(line, maxSummaryLine) + "\n")
		}
		b.WriteString("</pre>\n\n")
	}
	more(b, len(all)-maxSummaryFailures, "failures")
}

func (r Run) images(b *strings.Builder) {
	if r.Report == nil || len(r.Report.Images) == 0 {
		return
	}
	images := r.Report.Images
	b.WriteString("| target | tags | digest |\n|---|---|---|\n")
	for _, image := range images[:min(len(images), maxSummaryImages)] {
		fmt.Fprintf(b, "| %s | %s | %s |\n", inert(image.Target, maxName), inert(strings.Join(image.Tags, ", "), maxName), inert(image.Digest.String(), maxName))
	}
	b.WriteString("\n")
	more(b, len(images)-maxSummaryImages, "images")
}

func (r Run) steps(b *strings.Builder) {
	slow := r.slowest(maxSummarySteps)
	if len(slow) == 0 {
		return
	}
	results, _ := r.results()
	b.WriteString("<details><summary>What took longest</summary>\n\n| time | step | why |\n|---:|---|---|\n")
	for _, s := range slow {
		fmt.Fprintf(b, "| %s | %s | %s |\n", shownTime(s.End.Sub(s.Start)), inert(s.Name, maxName), inert(results[s.Step].Reason, maxName))
	}
	b.WriteString("\n</details>\n\n")
}

func more(b *strings.Builder, n int, what string) {
	if n > 0 {
		fmt.Fprintf(b, "… and %d more %s\n\n", n, what)
	}
}

// shownTime rounds to what a reader can tell apart.
func shownTime(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// inert is one line of at most n bytes of text with each ASCII punctuation sign as an entity. An entity can stand for no structure of
// Markdown, so nothing of it is a link, a table cell, a tag or a fence.
func inert(s string, n int) string {
	var b strings.Builder
	for _, c := range plain(s, n) {
		if c < 0x80 && c > ' ' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			fmt.Fprintf(&b, "&#%d;", c)
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}
