// Package report describes a build as a value, Run, and writes it in several formats: text, Markdown, HTML and Chrome's
// trace format. The output depends only on that value, not on the cache, the engine or the clock. Only the HTML page
// also contains logs, which the caller provides.
package report

import (
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// RunVersion is the version of the JSON encoding of a Run. It is increased when a field changes its meaning or is
// removed.
const RunVersion = 1

// Run is one build: its graph, the result of each step and its reason, the times, and the images. The build history
// stores it. Times are in UTC.
type Run struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	Tool      string    `json:"tool"`   // version of bake
	Engine    string    `json:"engine"` // embedded, or the addresses of BuildKit daemons
	Dir       string    `json:"dir"`    // of the project
	Targets   []string  `json:"targets"`
	Status    Status    `json:"status"`
	Session   string    `json:"session,omitempty"` // cache session of a running build
	Started   time.Time `json:"started"`
	Completed time.Time `json:"completed"`
	Declared  int       `json:"declared"` // steps of all targets and platforms before merging
	Steps     []Step    `json:"steps"`    // in the order of the graph: inputs before users
	Spans     []Span    `json:"spans"`    // sorted by start
	Images    []Image   `json:"images"`
	Bases     []Base    `json:"bases"`
	Warnings  []Warning `json:"warnings"`
	Failures  []Failure `json:"failures"`
}

// Status is the status of a build.
type Status string

// The statuses of a build.
const (
	Built       Status = "built"
	Failed      Status = "failed"
	Interrupted Status = "interrupted"
	Running     Status = "running"
)

// Step is one step of the merged graph.
type Step struct {
	Digest   digest.Digest      `json:"digest"`
	Name     string             `json:"name"`
	Kind     string             `json:"kind"` // source, exec, file, merge, diff, build or passthrough
	Platform string             `json:"platform,omitempty"`
	Source   []planner.Location `json:"source,omitempty"`
	Targets  []string           `json:"targets"`
	// Also are further steps of the project that have the same result, because they read equal files. Targets has those
	// of all of them.
	Also   []OtherStep `json:"also,omitempty"`
	Inputs []int       `json:"inputs,omitempty"` // indices into the steps of the run, each once
	// steps whose images a test checks without having them as inputs
	Tests  []int               `json:"tests,omitempty"`
	Status executor.StepStatus `json:"status,omitempty"` // empty if the build ended before running its graph
	Key    digest.Digest       `json:"key,omitempty"`
	Reason string              `json:"reason,omitempty"`
	Causes []executor.Cause    `json:"causes,omitempty"`
	// Claim is the remote cache that says what the step's result is; it did not run here.
	Claim string `json:"claim,omitempty"`
	// Expected is the expected time in seconds, from earlier builds; 0 if unknown.
	Expected float64 `json:"expected,omitempty"`
	Log      string  `json:"log,omitempty"` // file name of its output among the logs of the cache
	Error    string  `json:"error,omitempty"`
}

// OtherStep is a step that is listed with another one, whose result it has.
type OtherStep struct {
	Digest  digest.Digest      `json:"digest"`
	Name    string             `json:"name"`
	Source  []planner.Location `json:"source,omitempty"`
	Targets []string           `json:"targets"`
}

// Span is the time of a step, or of an activity outside the graph such as an export.
type Span struct {
	Step   digest.Digest `json:"step"`           // of a step, or of the name of an activity
	Name   string        `json:"name,omitempty"` // of an activity; empty for a step of the graph
	Start  time.Time     `json:"start"`
	End    time.Time     `json:"end"` // equal to Start for a step found in the cache
	Cached bool          `json:"cached,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// Image is the result of one platform of one target.
type Image struct {
	Target    string                `json:"target"`
	Platform  string                `json:"platform"`
	Root      int                   `json:"root"` // index of the step with its root file system; -1 is scratch
	Base      string                `json:"base,omitempty"`
	Tags      []string              `json:"tags,omitempty"`
	Digest    digest.Digest         `json:"digest,omitempty"` // of its manifest; empty if no image was created
	Index     digest.Digest         `json:"index,omitempty"`  // of the index of several platforms
	Finished  bool                  `json:"finished"`         // built, with all outputs written
	Layers    []executor.ImageLayer `json:"layers,omitempty"` // bottom first
	MediaType string                `json:"mediaType,omitempty"`
	// Config holds fields of the image config. It is used by plans and is not stored.
	Config ImageFacts `json:"-"`
}

// ImageFacts holds the fields of an image config that policies can use.
type ImageFacts struct {
	Platform   string            `json:"platform"`
	User       string            `json:"user,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Env        []string          `json:"env,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Workdir    string            `json:"workdir,omitempty"`
	Ports      []string          `json:"ports,omitempty"`
}

// Base is an image that targets are built on or copy from.
type Base struct {
	Ref     string        `json:"ref"`
	Digest  digest.Digest `json:"digest"`
	Locked  bool          `json:"locked"` // pinned by the lock file
	Targets []string      `json:"targets"`
	// Places lists the lines of Dockerfiles that name it. Created is the time in its config, or zero.
	Places  []planner.Location `json:"places,omitempty"`
	Created time.Time          `json:"created,omitzero"`
}

// Warning is a finding of the Dockerfile linter or of the planner.
type Warning struct {
	Target   string           `json:"target,omitempty"`
	Rule     string           `json:"rule,omitempty"`
	Message  string           `json:"message"`
	URL      string           `json:"url,omitempty"`
	Location planner.Location `json:"location,omitzero"`
}

// Failure is one error of a failed build.
type Failure struct {
	Message string             `json:"message"`
	Targets []string           `json:"targets,omitempty"`
	Source  []planner.Location `json:"source,omitempty"`
	Last    []string           `json:"last,omitempty"` // last lines of the step's output
	Log     string             `json:"log,omitempty"`  // file name of the step's output
}

// Count returns the number of steps with a status.
func (r Run) Count(status executor.StepStatus) int {
	n := 0
	for _, s := range r.Steps {
		if s.Status == status {
			n++
		}
	}
	return n
}

// ran reports whether the build ran its graph.
func (r Run) ran() bool { return len(r.Steps) > 0 && r.Steps[0].Status != "" }

// index returns the steps by digest.
func (r Run) index() map[digest.Digest]*Step {
	steps := make(map[digest.Digest]*Step, len(r.Steps))
	for i := range r.Steps {
		steps[r.Steps[i].Digest] = &r.Steps[i]
		for _, o := range r.Steps[i].Also {
			steps[o.Digest] = &r.Steps[i]
		}
	}
	return steps
}

// nameIn returns the name of the step or activity of a span.
func (s Span) nameIn(steps map[digest.Digest]*Step) string {
	if step := steps[s.Step]; step != nil {
		return step.Name
	}
	return s.Name
}
