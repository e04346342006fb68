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

// Explanation says why steps ran, or would run: those with causes of their own, each with those that follow from it.
type Explanation struct {
	Version int    `json:"version"`
	Build   string `json:"build,omitempty"` // id of the build; empty for what a build would do
	Roots   []Root `json:"roots"`
	// known are all steps of the run, to name those that causes speak of.
	known map[digest.Digest]*Step
}

// Root is a step with a cause of its own.
type Root struct {
	ExplainedStep
	Followers []ExplainedStep `json:"followers"` // in the order of the graph
}

// ExplainedStep is one step and why it ran, or would run.
type ExplainedStep struct {
	Digest  digest.Digest       `json:"digest"`
	Name    string              `json:"name"`
	Source  string              `json:"source,omitempty"` // FILE:LINE
	Status  executor.StepStatus `json:"status"`
	Targets []string            `json:"targets"`
	Causes  []executor.Cause    `json:"causes"`
}

// Explain says why steps ran or would run, by index. What they follow from is explained with them.
func (r Run) Explain(steps []int) Explanation {
	x := explainer{run: r, index: map[digest.Digest]int{}, root: map[int]int{}}
	for i, s := range r.Steps {
		x.index[s.Digest] = i
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

// active says whether a step ran, or would or may.
func (s Step) active() bool {
	return slices.Contains([]executor.StepStatus{executor.StatusRan, executor.StatusFailed, executor.StatusWillRun, executor.StatusMayRun}, s.Status)
}

// visible says whether a step is one that a person wrote: merges only put others together.
func (s Step) visible() bool { return s.Kind != "merge" && s.Kind != "diff" && s.Kind != "passthrough" }

func (r Run) explained(i int) ExplainedStep {
	s := r.Steps[i]
	return ExplainedStep{
		Digest: s.Digest, Name: s.Name, Source: executor.Place(s.Source), Status: s.Status, Targets: s.Targets, Causes: append([]executor.Cause{}, s.Causes...),
	}
}

// explainer finds the steps from which others follow.
type explainer struct {
	run   Run
	index map[digest.Digest]int
	root  map[int]int
}

// withCauses are those of the steps that ran, or would, and all that they follow from, in the order of the graph.
func (x *explainer) withCauses(steps []int) []int {
	wanted := map[int]bool{}
	for _, i := range steps {
		wanted[i] = true
	}
	var list []int
	for i := len(x.run.Steps) - 1; i >= 0; i-- {
		if !wanted[i] || !x.run.Steps[i].active() {
			continue
		}
		list = append(list, i)
		for _, c := range x.run.Steps[i].Causes {
			if k, ok := x.index[c.Step]; ok && k < i {
				wanted[k] = true
			}
		}
	}
	slices.Reverse(list)
	return list
}

// rootOf is the step from which one follows first, which may be itself.
func (x *explainer) rootOf(i int) int {
	if root, ok := x.root[i]; ok {
		return root
	}
	x.root[i] = i // inputs stand before users, so this ends; a record that says otherwise must not recur
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

// maxFollowers is how many steps that follow a text names, maxTextFiles how many files of one cause.
const (
	maxFollowers = 10
	maxTextFiles = 10
)

// WriteText writes an explanation for people: the first causes, and what followed.
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
		b.WriteString("  from which followed:\n")
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

// text is a cause in one line. A step that it follows from need not have run in this build.
func (e Explanation) text(c executor.Cause) string {
	step := e.known[c.Step]
	if c.Kind == executor.CauseInput && step != nil && !step.active() {
		return "another result of " + plain(step.Name, maxShownName) + " than at its last run"
	}
	return c.Text(func(digest.Digest) string {
		if step == nil {
			return ""
		}
		return step.Name
	})
}
