package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bakebuild/bake/executor"
)

// maxShownName limits the name of a step in a line of text, in bytes.
const maxShownName = 80

// WriteText writes the build as text: its status, its failures, the steps that ran with their times and reasons, and
// its images.
func (r Run) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "build %s %s, %s\n", r.ID, r.Status, r.Started.Format(time.RFC3339))
	fmt.Fprintf(w, "%s in %s with %s\n", strings.Join(r.Targets, ", "), r.Dir, r.Engine)
	if r.ran() {
		ran, cached := r.Count(executor.StatusRan), r.Count(executor.StatusCached)
		failed, skipped := r.Count(executor.StatusFailed), r.Count(executor.StatusSkipped)
		fmt.Fprintf(w, "%s in %s: %d ran, %d cached, %d failed, %d not started\n",
			counted(ran+cached+failed+skipped, "step"), FormatDuration(r.Completed.Sub(r.Started)),
			ran, cached, failed, skipped)
	}
	if err := r.writeStarted(w); err != nil {
		return err
	}
	for _, f := range r.Failures {
		fmt.Fprintf(w, "\nerror: %s\n", f.Message)
		for _, line := range f.Last {
			fmt.Fprintf(w, "  | %s\n", plain(line, maxSummaryLine))
		}
	}
	if err := r.writeRan(w); err != nil {
		return err
	}
	return r.writeImages(w)
}

// writeStarted lists the steps that have started but have no result, as in a running build.
func (r Run) writeStarted(w io.Writer) error {
	head := "\n"
	for _, s := range r.Steps {
		if s.Status != "" || s.Log == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%sstarted  %s\n", head, plain(s.Name, maxShownName)); err != nil {
			return err
		}
		head = ""
	}
	return nil
}

func (r Run) writeRan(w io.Writer) error {
	steps := r.index()
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	head := "\n"
	for _, s := range r.Spans {
		step := steps[s.Step]
		if step == nil || s.Cached {
			continue
		}
		fmt.Fprintf(t, "%s%s\t%s\t%s\t%s\n", head, step.Status, FormatDuration(s.End.Sub(s.Start)),
			plain(step.Name, maxShownName), plain(step.Reason, maxName))
		head = ""
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, line := range r.claimText() {
		if _, err := fmt.Fprintf(w, "%s\n", plain(line, maxReason)); err != nil {
			return err
		}
	}
	return nil
}

// claimText says which remote caches claim results of steps, in a line each.
func (r Run) claimText() []string {
	count := map[string]int{}
	for _, s := range r.Steps {
		if s.Claim != "" && s.visible() {
			count[s.Claim]++
		}
	}
	var lines []string
	for _, cache := range slices.Sorted(maps.Keys(count)) {
		lines = append(lines, fmt.Sprintf("%s claimed by %s: they did not run here, and nothing can verify the claim",
			counted(count[cache], "step"), cache))
	}
	return lines
}

func (r Run) writeImages(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	head := "\n"
	for _, image := range r.Images {
		if !image.Finished {
			continue
		}
		size := int64(0)
		for _, l := range image.Layers {
			size += l.Size
		}
		fmt.Fprintf(t, "%s%s\t%s\t%d layers, %d bytes\t%s\t%s\n", head, image.Target, image.Platform,
			len(image.Layers), size, image.Digest, strings.Join(image.Tags, ", "))
		head = ""
	}
	return t.Flush()
}
