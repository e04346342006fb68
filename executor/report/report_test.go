package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

func at(ms int) time.Time { return time.UnixMilli(1_700_000_000_000 + int64(ms)) }

func event(kind executor.EventKind, name string, ms int) executor.Event {
	return executor.Event{Time: at(ms), Step: digest.FromString(name), Name: name, Kind: kind}
}

// sampleRun returns a run of three steps and an export. One step was cached, and the export did not end.
func sampleRun() Run {
	var r Recorder
	for _, e := range []executor.Event{
		event(executor.KindCached, "base", 0),
		event(executor.KindStart, "a", 10),
		event(executor.KindStart, "b", 20),
		event(executor.KindDone, "a", 50),
		event(executor.KindStart, "export", 60),
		event(executor.KindDone, "b", 90),
	} {
		r.Event(e)
	}
	g := &planner.Graph{}
	report := &executor.Report{Started: at(0), Completed: at(100)}
	for _, name := range []string{"base", "a", "b"} {
		d := digest.FromString(name)
		step := &planner.Step{Digest: d, Name: name, Targets: []string{"t"}}
		result := executor.StepResult{Digest: d, Status: executor.StatusRan, Reason: "never built"}
		if name == "base" {
			result.Status = executor.StatusCached
		}
		if name == "b" {
			step.Source = []planner.Location{{File: "Dockerfile", Start: 3, End: 4}}
		}
		g.Steps, report.Steps = append(g.Steps, step), append(report.Steps, result)
	}
	return New(Facts{Graph: g, Report: report, Spans: r.Spans(), Started: at(0), Completed: at(100)})
}

func TestTrace(t *testing.T) {
	var raw strings.Builder
	if err := sampleRun().WriteTrace(&raw); err != nil {
		t.Fatal(err)
	}
	var trace struct {
		TraceEvents []struct {
			Name, Cat, Ph string
			Ts, Dur       int64
			Tid           int
			Args          map[string]any
		}
	}
	if err := json.Unmarshal([]byte(raw.String()), &trace); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range trace.TraceEvents {
		if e.Ph != "M" {
			got = append(got, fmt.Sprint(e.Ph, e.Cat, e.Name, e.Ts, e.Dur, e.Tid, e.Args["source"], e.Args["reason"]))
		}
	}
	want := []string{
		fmt.Sprint("i", "cached", "base", int64(0), int64(0), 0, nil, nil),
		fmt.Sprint("X", "step", "a", int64(10_000), int64(40_000), 0, nil, "never built"),
		fmt.Sprint("X", "step", "b", int64(20_000), int64(70_000), 1, "Dockerfile:3", "never built"),
		fmt.Sprint("X", "activity", "export", int64(60_000), int64(30_000), 0, nil, nil),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestLanes checks that spans on one lane do not overlap.
func TestLanes(t *testing.T) {
	var spans []Span
	for i := range 200 {
		spans = append(spans, Span{Start: at(i), End: at(i + i*7%23)})
	}
	got := lanes(spans)
	for i := range spans {
		for j := range i {
			if got[i] == got[j] && spans[j].End.After(spans[i].Start) {
				t.Errorf("spans %d and %d overlap on lane %d", j, i, got[i])
			}
		}
	}
}

func TestMarkdown(t *testing.T) {
	run := sampleRun()
	run.Images = []Image{{Target: "t", Tags: []string{"t:1"}, Digest: "sha256:abc", Finished: true}}
	var b strings.Builder
	if err := run.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	want := "### bake: built in 100ms\n\n2 ran · 1 cached\n\n" +
		"| target | tags | digest |\n|---|---|---|\n| t | t&#58;1 | sha256&#58;abc |\n\n" +
		"<details><summary>Slowest steps</summary>\n\n| time | step | why |\n|---:|---|---|\n" +
		"| 70ms | b | never built |\n| 40ms | a | never built |\n| 30ms | export |  |\n\n</details>\n\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

// TestMarkdownIsInert checks that text from a build stays text, and that a summary stays small.
func TestMarkdownIsInert(t *testing.T) {
	evil := "</pre><script>x</script>\n\n# head\n| a | b |\n```\n[l](http://e) ![i](http://e/i.png) @you \x1b[31m " +
		"\u202e" + "\xff"
	step := &executor.StepError{Step: evil, ExitCode: 1,
		Last: []string{evil, "", strings.Repeat("a", 1<<20), "  indented"}}
	all := make([]error, 50)
	for i := range all {
		all[i] = step
	}
	run := sampleRun()
	run.Status, run.Failures = Failed, New(Facts{Err: &executor.Failures{All: all}}).Failures
	for i := range 5000 {
		run.Images = append(run.Images, Image{Target: evil + fmt.Sprint(i), Tags: []string{evil}, Finished: true})
		run.Spans = append(run.Spans, Span{Name: evil, Start: at(0), End: at(1000)})
	}
	var b strings.Builder
	if err := run.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, bad := range []string{"<script", "\n# head", "\n```", "](http", "\x1b", "\u202e", "\xff", "\n| a"} {
		if strings.Contains(got, bad) {
			t.Errorf("the summary contains %q", bad)
		}
	}
	if n := strings.Count(got, "</pre>"); n != maxSummaryFailures {
		t.Errorf("%d </pre> tags, want %d", n, maxSummaryFailures)
	}
	if !strings.Contains(got, "\n  indented\n") || !strings.Contains(got, "and 40 more failures") ||
		!strings.Contains(got, "and 4900 more images") {
		t.Error("the indentation or the number of omitted items is missing")
	}
	if len(got) > 1<<20 {
		t.Errorf("%d bytes", len(got))
	}
}

// TestMarkdownWithoutGraph checks the summary of a build that failed before it had a graph.
func TestMarkdownWithoutGraph(t *testing.T) {
	var b strings.Builder
	if err := New(Facts{Err: errors.New("no Dockerfile")}).WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	if want := "### bake: failed\n\n**no Dockerfile**\n\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

// TestTestsOfConfig checks that the image of a test without inputs is recorded in Tests, not in Inputs.
func TestTestsOfConfig(t *testing.T) {
	root := &planner.Step{Digest: digest.FromString("root")}
	config := &planner.Step{Digest: digest.FromString("config"), Test: &planner.Test{}}
	file := &planner.Step{Digest: digest.FromString("file"), Test: &planner.Test{},
		Inputs: []planner.Edge{{Step: root}}}
	g := &planner.Graph{
		Steps: []*planner.Step{root, config, file},
		Images: []*planner.Image{{Target: "a", Root: planner.Edge{Step: root}, Config: []byte("{}"),
			Tests: []*planner.Step{config, file}}},
	}
	steps := New(Facts{Graph: g}).Steps
	for i, want := range [][2][]int{{nil, nil}, {nil, {0}}, {{0}, nil}} {
		if diff := cmp.Diff(want, [2][]int{steps[i].Inputs, steps[i].Tests}); diff != "" {
			t.Errorf("step %d: Inputs and Tests (-want +got):\n%s", i, diff)
		}
	}
}
