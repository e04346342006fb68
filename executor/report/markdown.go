package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bakebuild/bake/executor"
)

// Limits of a summary, which keep it far below the 1 MiB that GitHub accepts per job step.
const (
	maxSummaryImages   = 100
	maxSummarySteps    = 20
	maxSummaryFailures = 10
	maxSummaryLines    = 20
	maxSummaryLine     = 300 // bytes of one line of a log
)

// WriteMarkdown writes a summary of the run in GitHub's Markdown: the status, failures with their last lines, images,
// and the steps that took longest. Text from a build cannot create Markdown structure, because its punctuation is
// written as entities.
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
	if !r.ran() {
		fmt.Fprintf(b, "### bake: %s\n\n", r.Status)
		return
	}
	fmt.Fprintf(b, "### bake: %s in %s\n\n", r.Status, FormatDuration(r.Completed.Sub(r.Started)))
	fmt.Fprintf(b, "%d ran · %d cached", r.Count(executor.StatusRan), r.Count(executor.StatusCached))
	if r.Status != Built {
		fmt.Fprintf(b, " · %d failed · %d not started", r.Count(executor.StatusFailed), r.Count(executor.StatusSkipped))
	}
	b.WriteString("\n\n")
}

func (r Run) failures(b *strings.Builder) {
	for _, f := range r.Failures[:min(len(r.Failures), maxSummaryFailures)] {
		fmt.Fprintf(b, "**%s**\n\n", inert(f.Message, maxName))
		if len(f.Last) == 0 {
			continue
		}
		b.WriteString("<pre>")
		for _, line := range f.Last[max(0, len(f.Last)-maxSummaryLines):] {
			b.WriteString(inert(line, maxSummaryLine) + "\n")
		}
		b.WriteString("</pre>\n\n")
	}
	more(b, len(r.Failures)-maxSummaryFailures, "failures")
}

func (r Run) images(b *strings.Builder) {
	images := r.finished()
	if len(images) == 0 {
		return
	}
	b.WriteString("| target | tags | digest |\n|---|---|---|\n")
	for _, image := range images[:min(len(images), maxSummaryImages)] {
		digest := cmp.Or(image.Index, image.Digest)
		fmt.Fprintf(b, "| %s | %s | %s |\n", inert(image.Target, maxName),
			inert(strings.Join(image.Tags, ", "), maxName),
			inert(digest.String(), maxName))
	}
	b.WriteString("\n")
	more(b, len(images)-maxSummaryImages, "images")
}

// finished returns the images whose outputs were written, one for each target.
func (r Run) finished() []Image {
	var out []Image
	seen := map[string]bool{}
	for _, image := range r.Images {
		if image.Finished && !seen[image.Target] {
			seen[image.Target] = true
			out = append(out, image)
		}
	}
	return out
}

func (r Run) steps(b *strings.Builder) {
	for _, line := range r.claimText() {
		fmt.Fprintf(b, "%s\n\n", inert(line, maxReason))
	}
	slow := r.slowest(maxSummarySteps)
	if len(slow) == 0 {
		return
	}
	steps := r.index()
	b.WriteString("<details><summary>Slowest steps</summary>\n\n| time | step | why |\n|---:|---|---|\n")
	for _, s := range slow {
		reason := ""
		if step := steps[s.Step]; step != nil {
			reason = step.Reason
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n",
			FormatDuration(s.End.Sub(s.Start)), inert(s.nameIn(steps), maxName), inert(reason, maxName))
	}
	b.WriteString("\n</details>\n\n")
}

// slowest returns up to n spans of steps and activities that ran successfully, the longest first.
func (r Run) slowest(n int) []Span {
	ran := slices.DeleteFunc(slices.Clone(r.Spans), func(s Span) bool { return s.Cached || s.Error != "" })
	slices.SortStableFunc(ran, func(a, b Span) int { return cmp.Compare(b.End.Sub(b.Start), a.End.Sub(a.Start)) })
	return ran[:min(n, len(ran))]
}

// more writes how many items were left out, if any.
func more(b *strings.Builder, n int, what string) {
	if n > 0 {
		fmt.Fprintf(b, "… and %d more %s\n\n", n, what)
	}
}

// FormatDuration formats a duration rounded to the precision that matters to a reader.
func FormatDuration(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// inert returns text as one line of at most n bytes, with each ASCII punctuation character written as an entity.
// Markdown never interprets an entity as structure, so the text cannot become a link, a table cell, a tag or a fence.
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

// maxName limits a displayed name, in bytes: a name may contain a here-document as long as a program.
const maxName = 300

// plain returns text from a build as one line of valid UTF-8 without control and bidirectional characters. Text longer
// than n bytes is cut, and an ellipsis is appended.
func plain(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return strings.Map(func(c rune) rune {
		switch {
		case unicode.IsSpace(c):
			return ' '
		case c == utf8.RuneError, unicode.IsControl(c), unicode.Is(unicode.Bidi_Control, c):
			return -1
		}
		return c
	}, s)
}
