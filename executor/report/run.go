// Package report is one finished build as a value, and what is shown of it: a trace of its time, a summary in Markdown,
// texts. All of it is a function of that value; no cache, engine or clock is asked.
package report

import (
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// RunVersion is the version of the JSON form of a Run. It is raised when a field changes its meaning or goes.
const RunVersion = 1

// Run is one build: its graph, what became of each step and why, the time that all took, and what came of it. It is
// what the history of builds keeps. Times are in UTC.
type Run struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	Tool      string    `json:"tool"`   // version of bake
	Engine    string    `json:"engine"` // embedded, or the addresses of BuildKit daemons
	Dir       string    `json:"dir"`    // of the project
	Targets   []string  `json:"targets"`
	Status    Status    `json:"status"`
	Session   string    `json:"session,omitempty"` // of the cache, while it is running
	Started   time.Time `json:"started"`
	Completed time.Time `json:"completed"`
	Declared  int       `json:"declared"` // steps of all targets and platforms before merging
	Steps     []Step    `json:"steps"`    // in the order of the graph: inputs before users
	Spans     []Span    `json:"spans"`    // by start
	Images    []Image   `json:"images"`
	Bases     []Base    `json:"bases"`
	Warnings  []Warning `json:"warnings"`
	Failures  []Failure `json:"failures"`
}

// Status is what became of a build.
type Status string

// What can become of a build.
const (
	Built       Status = "built"
	Failed      Status = "failed"
	Interrupted Status = "interrupted"
	Running     Status = "running"
)

// Step is one step of the merged graph.
type Step struct {
	Digest   digest.Digest       `json:"digest"`
	Name     string              `json:"name"`
	Kind     string              `json:"kind"` // source, exec, file, merge, diff, build or passthrough
	Platform string              `json:"platform,omitempty"`
	Source   []planner.Location  `json:"source,omitempty"`
	Targets  []string            `json:"targets"`
	Inputs   []int               `json:"inputs,omitempty"` // indices into the steps of the run, each once
	Tests    []int               `json:"tests,omitempty"`  // what makes the images that a test is about which reads none of them
	Status   executor.StepStatus `json:"status,omitempty"` // empty when the build never came to run
	Key      digest.Digest       `json:"key,omitempty"`
	Reason   string              `json:"reason,omitempty"`
	Causes   []executor.Cause    `json:"causes,omitempty"`
	// Expected is how long it was expected to take from earlier builds, in seconds; 0 is unknown.
	Expected float64 `json:"expected,omitempty"`
	Log      string  `json:"log,omitempty"` // name of the file of its output among the logs of the cache
	Error    string  `json:"error,omitempty"`
}

// Span is the time that a step, or an activity outside of the graph such as an export, took.
type Span struct {
	Step   digest.Digest `json:"step"`           // of a step of the graph, or of an activity's name
	Name   string        `json:"name,omitempty"` // of an activity; a step has its own
	Start  time.Time     `json:"start"`
	End    time.Time     `json:"end"` // equal to Start for what was found in the cache
	Cached bool          `json:"cached,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// Image is what one platform of one target came to.
type Image struct {
	Target    string                `json:"target"`
	Platform  string                `json:"platform"`
	Root      int                   `json:"root"` // index of the step whose file system it is; -1 is scratch
	Base      string                `json:"base,omitempty"`
	Tags      []string              `json:"tags,omitempty"`
	Digest    digest.Digest         `json:"digest,omitempty"` // of its manifest; empty where no image was made
	Index     digest.Digest         `json:"index,omitempty"`  // of the index of several platforms
	Finished  bool                  `json:"finished"`         // it was built, and its outputs were written
	Layers    []executor.ImageLayer `json:"layers,omitempty"` // bottom first
	MediaType string                `json:"mediaType,omitempty"`
	// Config is what the image config will say; only a plan has it.
	Config ImageFacts `json:"-"`
}

// ImageFacts is what a policy may ask of an image's config.
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

// Base is an image that targets stand on or copy from.
type Base struct {
	Ref     string        `json:"ref"`
	Digest  digest.Digest `json:"digest"`
	Locked  bool          `json:"locked"` // by the lock file
	Targets []string      `json:"targets"`
	// Places are the lines of Dockerfiles that name it; Created is the time in its config, zero when it says none.
	Places  []planner.Location `json:"places,omitempty"`
	Created time.Time          `json:"created,omitzero"`
}

// Warning is what the linter of Dockerfiles or the planner found.
type Warning struct {
	Target   string           `json:"target,omitempty"`
	Rule     string           `json:"rule,omitempty"`
	Message  string           `json:"message"`
	URL      string           `json:"url,omitempty"`
	Location planner.Location `json:"location,omitzero"`
}

// Failure is one error that the build ended with.
type Failure struct {
	Message string             `json:"message"`
	Targets []string           `json:"targets,omitempty"`
	Source  []planner.Location `json:"source,omitempty"`
	Last    []string           `json:"last,omitempty"` // last lines of the step's output
	Log     string             `json:"log,omitempty"`  // name of the file of its output
}

// Count says how many steps have a status.
func (r Run) Count(status executor.StepStatus) int {
	n := 0
	for _, s := range r.Steps {
		if s.Status == status {
			n++
		}
	}
	return n
}

// ran says whether the build came to run its graph.
func (r Run) ran() bool { return len(r.Steps) > 0 && r.Steps[0].Status != "" }

// index finds the steps by digest.
func (r Run) index() map[digest.Digest]*Step {
	steps := make(map[digest.Digest]*Step, len(r.Steps))
	for i := range r.Steps {
		steps[r.Steps[i].Digest] = &r.Steps[i]
	}
	return steps
}

// nameIn is the name of what took the time: of a step of the graph, or of an activity.
func (s Span) nameIn(steps map[digest.Digest]*Step) string {
	if step := steps[s.Step]; step != nil {
		return step.Name
	}
	return s.Name
}
