package report

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
)

// PlanVersion is the version of the JSON form of a Plan.
const PlanVersion = 1

// Plan describes what a build would do. It is computed from the Run of a build that was planned but not run.
type Plan struct {
	Version int `json:"version"`
	PlanCounts
	Declared int          `json:"declared"` // steps of all targets and platforms before merging
	Targets  []PlanTarget `json:"targets"`  // in the order requested
	Steps    []PlanStep   `json:"steps"`    // merged, inputs before users
	Bases    []Base       `json:"bases"`
}

// PlanCounts holds numbers of steps and the expected time.
type PlanCounts struct {
	Total  int `json:"total"`  // after merging
	Shared int `json:"shared"` // needed by several targets
	Cached int `json:"cached"` // need not run
	Run    int `json:"run"`
	MayRun int `json:"mayRun"`
	// WorkSeconds is the total expected time of the steps that will or may run, PathSeconds that of their longest
	// chain. Both come from earlier builds. Unknown counts the steps among them without a known time.
	WorkSeconds float64 `json:"workSeconds"`
	PathSeconds float64 `json:"pathSeconds"`
	Unknown     int     `json:"unknown"`
}

// PlanTarget is one target of a plan.
type PlanTarget struct {
	Name      string   `json:"name"`
	Platforms []string `json:"platforms"`
	Tags      []string `json:"tags"`
	Bases     []string `json:"bases"` // bases of its final stages, with digest
	// Images holds the config fields that policies can use, one per platform.
	Images []ImageFacts `json:"images"`
	PlanCounts
}

// PlanStep is one step of a plan.
type PlanStep struct {
	Digest   digest.Digest       `json:"digest"`
	Name     string              `json:"name"`
	Kind     string              `json:"kind"`
	Platform string              `json:"platform,omitempty"`
	Status   executor.StepStatus `json:"status"`
	Reason   string              `json:"reason,omitempty"`
	Causes   []executor.Cause    `json:"causes,omitempty"`
	Claim    string              `json:"claim,omitempty"`  // the remote cache that says what its result is
	Source   string              `json:"source,omitempty"` // FILE:LINE
	Targets  []string            `json:"targets"`
	Also     []OtherStep         `json:"also,omitempty"` // steps with the same result, because they read equal files
	Inputs   []digest.Digest     `json:"inputs"`
	Seconds  float64             `json:"expectedSeconds,omitempty"`
}

// Plan returns the plan of a run that was planned but not run.
func (r Run) Plan() Plan {
	p := Plan{Version: PlanVersion, Declared: r.Declared, Steps: []PlanStep{}, Targets: []PlanTarget{}, Bases: r.Bases}
	of := map[string][]int{}
	for i, s := range r.Steps {
		for _, t := range s.Targets {
			of[t] = append(of[t], i)
		}
		step := PlanStep{
			Digest: s.Digest, Name: s.Name, Kind: s.Kind, Platform: s.Platform, Status: s.Status, Reason: s.Reason,
			Causes: s.Causes, Claim: s.Claim,
			Source: executor.Place(s.Source), Targets: s.Targets, Also: s.Also, Inputs: []digest.Digest{},
			Seconds: s.Expected,
		}
		for _, in := range s.Inputs {
			step.Inputs = append(step.Inputs, r.Steps[in].Digest)
		}
		p.Steps = append(p.Steps, step)
	}
	p.PlanCounts = r.count(r.All())
	index := map[string]int{}
	for _, image := range r.Images {
		i, ok := index[image.Target]
		if !ok {
			i = len(p.Targets)
			index[image.Target] = i
			p.Targets = append(p.Targets, PlanTarget{
				Name: image.Target, Tags: append([]string{}, image.Tags...), Bases: []string{},
				PlanCounts: r.count(of[image.Target]),
			})
		}
		t := &p.Targets[i]
		t.Platforms = append(t.Platforms, image.Platform)
		t.Images = append(t.Images, image.Config)
		if image.Base != "" && !slices.Contains(t.Bases, image.Base) {
			t.Bases = append(t.Bases, image.Base)
		}
	}
	return p
}

// count returns the counts of some steps, which must be in the order of the graph.
func (r Run) count(steps []int) PlanCounts {
	c := PlanCounts{Total: len(steps)}
	ends := make(map[int]float64, len(steps)) // the length of the longest chain that ends with a step
	for _, i := range steps {
		s := r.Steps[i]
		if len(s.Targets) > 1 {
			c.Shared++
		}
		for _, in := range s.Inputs {
			ends[i] = max(ends[i], ends[in])
		}
		switch s.Status {
		case executor.StatusWillRun:
			c.Run++
		case executor.StatusMayRun:
			c.MayRun++
		default:
			c.Cached++
			continue
		}
		if s.Expected == 0 && (s.Kind == "exec" || s.Kind == "file") {
			c.Unknown++
		}
		c.WorkSeconds += s.Expected
		ends[i] += s.Expected
		c.PathSeconds = max(c.PathSeconds, ends[i])
	}
	return c
}

// WriteText writes a plan as text: the steps of each target that would run and why, and totals. A shared step is listed
// with the first of its targets. If all is set, steps that need not run are listed too.
func (p Plan) WriteText(w io.Writer, all bool) error {
	shown := map[digest.Digest]bool{}
	of := map[string][]PlanStep{}
	for _, s := range p.Steps {
		for _, t := range s.Targets {
			of[t] = append(of[t], s)
		}
	}
	idle := 0
	for _, t := range p.Targets {
		if t.Run+t.MayRun == 0 && !all {
			idle++
			continue
		}
		fmt.Fprintf(w, "target %s: %s\n", t.Name, t.text())
		if err := writePlanSteps(w, of[t.Name], shown, all); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	if idle > 0 && idle < len(p.Targets) {
		fmt.Fprintf(w, "nothing to do for %s\n\n", counted(idle, "more target"))
	}
	_, err := fmt.Fprintf(w, "%s of %s declared, %d after merging, %d shared: %s\n",
		counted(p.Declared, "step"), counted(len(p.Targets), "target"), p.Total, p.Shared, p.work())
	return err
}

func writePlanSteps(w io.Writer, steps []PlanStep, shown map[digest.Digest]bool, all bool) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	before := 0
	for _, s := range steps {
		runs := s.Status == executor.StatusWillRun || s.Status == executor.StatusMayRun
		if !runs && !all {
			continue
		}
		if shown[s.Digest] {
			before++
			continue
		}
		shown[s.Digest] = true
		fmt.Fprintf(t, "  %s\t%s\t%s%s\n", s.Status, plain(s.Name, maxShownName), plain(s.Source, maxName),
			s.expected(runs))
		if s.Reason != "" {
			fmt.Fprintf(t, "  \t  %s\n", plain(s.Reason, maxReason))
		}
		writeAlso(t, "  \t  %s\n", s.Also)
	}
	if before > 0 {
		fmt.Fprintf(t, "  and %s named above\n", counted(before, "step"))
	}
	return t.Flush()
}

// maxReason limits a reason in a line of text, in bytes.
const maxReason = 160

func (s PlanStep) expected(runs bool) string {
	if !runs || s.Seconds == 0 {
		return ""
	}
	return "\tabout " + shownSeconds(s.Seconds)
}

func shownSeconds(s float64) string { return FormatDuration(time.Duration(s * float64(time.Second))) }

func (c PlanCounts) text() string {
	return fmt.Sprintf("%s, %d shared: %s", counted(c.Total, "step"), c.Shared, c.work())
}

// work returns the numbers of steps by status and the expected time.
func (c PlanCounts) work() string {
	text := fmt.Sprintf("%d cached, %d will run, %d may run", c.Cached, c.Run, c.MayRun)
	if c.Run+c.MayRun == 0 {
		return text
	}
	if c.WorkSeconds > 0 {
		text += ", about " + shownSeconds(c.PathSeconds)
		if c.WorkSeconds > c.PathSeconds {
			text += " (" + shownSeconds(c.WorkSeconds) + " of work)"
		}
	}
	if c.Unknown > 0 {
		text += fmt.Sprintf(", %d without a known duration", c.Unknown)
	}
	return text
}

// counted returns a number with a noun, in the plural unless n is 1.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
