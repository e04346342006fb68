package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
)

// ExplanationVersion is the version of the JSON form of an Explanation.
const ExplanationVersion = 1

// Explanation holds the reasons why steps ran or would run: the steps with a cause of their own, each with the steps
// that run as a consequence.
type Explanation struct {
	Version int    `json:"version"`
	Build   string `json:"build,omitempty"` // id of the build; empty for a build that has not run
	Roots   []Root `json:"roots"`
	// known holds all steps of the run, for the names of the steps in causes.
	known map[digest.Digest]*Step
}

// Root is a step with a cause of its own.
type Root struct {
	ExplainedStep
	Followers []ExplainedStep `json:"followers"` // steps that run because of it, in the order of the graph
}

// ExplainedStep is a step and the reasons why it ran or would run.
type ExplainedStep struct {
	Digest  digest.Digest       `json:"digest"`
	Name    string              `json:"name"`
	Source  string              `json:"source,omitempty"` // FILE:LINE
	Status  executor.StepStatus `json:"status"`
	Targets []string            `json:"targets"`
	Also    []OtherStep         `json:"also,omitempty"` // steps with the same result, because they read equal files
	Causes  []executor.Cause    `json:"causes"`
}

// Explain returns the reasons why some steps, given by index, ran or would run. The steps that caused them to run are
// included.
func (r Run) Explain(steps []int) Explanation {
	x := explainer{run: r, index: map[digest.Digest]int{}, root: map[int]int{}}
	for i, s := range r.Steps {
		x.index[s.Digest] = i
		for _, o := range s.Also {
			x.index[o.Digest] = i
		}
	}
	followers := map[int][]int{}
	for _, i := range x.withCauses(steps) {
		root := x.rootOf(i)
		if _, ok := followers[root]; !ok {
			followers[root] = []int{}
		}
		if root != i {
			followers[root] = append(followers[root], i)
		}
	}
	e := Explanation{Version: ExplanationVersion, Build: r.ID, Roots: []Root{}, known: r.index()}
	for i := range r.Steps {
		list, ok := followers[i]
		if !ok {
			continue
		}
		root := Root{ExplainedStep: r.explained(i), Followers: []ExplainedStep{}}
		for _, f := range list {
			if r.Steps[f].visible() {
				root.Followers = append(root.Followers, r.explained(f))
			}
		}
		e.Roots = append(e.Roots, root)
	}
	return e
}

// active reports whether a step ran, or will or may run.
func (s Step) active() bool {
	active := []executor.StepStatus{
		executor.StatusRan, executor.StatusFailed, executor.StatusWillRun, executor.StatusMayRun,
	}
	return slices.Contains(active, s.Status)
}

// visible reports whether a step belongs to an instruction that a person wrote, rather than only combining other steps.
func (s Step) visible() bool { return s.Kind != "merge" && s.Kind != "diff" && s.Kind != "passthrough" }

func (r Run) explained(i int) ExplainedStep {
	s := r.Steps[i]
	return ExplainedStep{
		Digest: s.Digest, Name: s.Name, Source: executor.Place(s.Source), Status: s.Status, Targets: s.Targets,
		Also: s.Also, Causes: append([]executor.Cause{}, s.Causes...),
	}
}

// explainer finds the root of each step: the step whose own cause made it run.
type explainer struct {
	run   Run
	index map[digest.Digest]int
	root  map[int]int
}

// withCauses returns the active ones of some steps and the steps in their causes, transitively, in the order of the
// graph.
func (x *explainer) withCauses(steps []int) []int {
	included := map[int]bool{}
	for _, i := range steps {
		included[i] = true
	}
	var list []int
	for i := len(x.run.Steps) - 1; i >= 0; i-- {
		if !included[i] || !x.run.Steps[i].active() {
			continue
		}
		list = append(list, i)
		for _, c := range x.run.Steps[i].Causes {
			if k, ok := x.index[c.Step]; ok && k < i {
				included[k] = true
			}
		}
	}
	slices.Reverse(list)
	return list
}

// rootOf returns the root of a step, which may be the step itself.
func (x *explainer) rootOf(i int) int {
	if root, ok := x.root[i]; ok {
		return root
	}
	x.root[i] = i // the default, and the end of the recursion if a damaged record contains a cycle
	for _, c := range x.run.Steps[i].Causes {
		if c.Own() {
			return i
		}
	}
	for _, c := range x.run.Steps[i].Causes {
		if k, ok := x.index[c.Step]; ok && k < i && x.run.Steps[k].active() {
			x.root[i] = x.rootOf(k)
			break
		}
	}
	return x.root[i]
}

// Limits of the text of an explanation.
const (
	maxFollowers = 10 // followers of a root
	maxTextFiles = 10 // files of a cause
)

// WriteText writes an explanation as text: each root with its causes and followers.
func (e Explanation) WriteText(w io.Writer) error {
	var b strings.Builder
	for i, root := range e.Roots {
		if i > 0 {
			b.WriteString("\n")
		}
		e.write(&b, root.ExplainedStep)
		if len(root.Followers) == 0 {
			continue
		}
		b.WriteString("  as a result:\n")
		for _, f := range root.Followers[:min(len(root.Followers), maxFollowers)] {
			fmt.Fprintf(&b, "    %s  %s  %s\n", f.Status, plain(f.Name, maxShownName), plain(f.Source, maxName))
		}
		if more := len(root.Followers) - maxFollowers; more > 0 {
			fmt.Fprintf(&b, "    … and %s\n", counted(more, "more step"))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (e Explanation) write(b *strings.Builder, s ExplainedStep) {
	fmt.Fprintf(b, "%s  %s  %s\n", s.Status, plain(s.Name, maxShownName), plain(s.Source, maxName))
	writeAlso(b, "  %s\n", s.Also)
	for _, c := range s.Causes {
		if len(c.Files) == 0 {
			fmt.Fprintf(b, "  %s\n", plain(e.text(c), 3*maxName))
			continue
		}
		short := c
		short.Files, short.More = nil, 0
		fmt.Fprintf(b, "  %s:\n", plain(e.text(short), maxName))
		for _, f := range c.Files[:min(len(c.Files), maxTextFiles)] {
			fmt.Fprintf(b, "    %s\n", plain(f.How+" "+f.Path, maxName))
		}
		if more := len(c.Files) + c.More - maxTextFiles; more > 0 {
			fmt.Fprintf(b, "    … and %s\n", counted(more, "more file"))
		}
	}
}

// text returns a cause as one line. The step in a cause need not have run in this build.
func (e Explanation) text(c executor.Cause) string {
	step := e.known[c.Step]
	if c.Kind == executor.CauseInput && step != nil && !step.active() {
		return "the result of " + plain(step.Name, maxShownName) + " differs from that of the last run"
	}
	return c.Text(func(digest.Digest) string {
		if step == nil {
			return ""
		}
		return step.Name
	})
}
