// Package executor says what it means to run a graph: the Engine that runs it, its options and its report, and the
// assembly of images and outputs that both engines share.
package executor

import (
	"context"
	"io"
	"os"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/planner"
)

// Engine runs a graph to its end and writes its outputs. It returns a report also when it returns an error, about all
// that was done until then. Tags and outputs move only when every requested image has been built, unless
// Options.KeepGoing asks otherwise.
type Engine interface {
	Run(ctx context.Context, g *planner.Graph, opts Options) (*Report, error)
}

// Options is what the caller of one run decides.
type Options struct {
	Jobs    int  // steps that run at once; 0 means the number of CPUs
	NoCache bool // run every step, whatever the cache holds; what runs is stored
	// Verify runs the steps again that the cache has, compares what they make, and goes on with what the cache has.
	Verify bool
	// KeepGoing lets what does not stand on a failed step go on, and writes the outputs of the targets that succeeded.
	// Of several failures the error is then a *Failures.
	KeepGoing bool
	// Epoch is what times in images are clamped and set to; nil means the default of executor.DefaultEpoch.
	Epoch *time.Time
	// Events receives what happens, in order, from one goroutine at a time; nil means nobody looks.
	Events func(Event)
	// Warn takes what went wrong beside the build, such as a cache that could not be read, perhaps from several
	// goroutines; nil drops it.
	Warn func(text string)
	// Allow are the entitlements granted: network.host, security.insecure.
	Allow []string
	// Dir is what relative destinations of outputs refer to, absolute; Stdout takes outputs that go there, nil refuses
	// them.
	Dir    string
	Stdout io.Writer
	// Debug, when not nil, is called when a command has failed, by one at a time, and steps that have not started wait
	// for it. shell runs a shell on a terminal, of a kind as TERM has it, in the step's root with all that the step
	// has; it is nil where the root has none. What Debug does changes nothing of how the build ends.
	Debug func(failed *StepError, shell func(terminal *os.File, name string) error)
	// Project is the directory of the project. What its targets stand on is noted under it; empty notes nothing.
	Project string
}

// Event is one thing that happened to a step or to a named activity, such as a transfer or an export.
type Event struct {
	Time time.Time
	// Step is the digest of a graph step, or a digest of Name for an activity outside of the graph.
	Step digest.Digest
	Name string
	Kind EventKind
	// Log is raw output of the step for KindLog; Stream is 1 for stdout and 2 for stderr.
	Log    []byte
	Stream int
	// ID, Current and Total say for KindProgress how far one part is (a layer, a blob), in bytes; Total 0 is unknown.
	ID             string
	Current, Total int64
	Err            error // for KindDone of a failed step
}

// EventKind says what an Event is about.
type EventKind int

// The kinds of Event. A step has one KindStart, then any of KindLog and KindProgress, then one KindDone or KindCached.
// A step that was found in the cache has KindCached alone.
const (
	KindStart EventKind = iota
	KindLog
	KindProgress
	KindDone
	KindCached
)

// Report says what one run did.
type Report struct {
	Images             []ImageResult
	Steps              []StepResult // in graph order
	Started, Completed time.Time
}

// StepResult says what became of one step.
type StepResult struct {
	Digest digest.Digest
	Key    digest.Digest // zero when it was never known
	Status StepStatus
	Reason string // why it ran or would, in words, when it did; the first of Causes where there are any
	// Causes say why it ran or would run, those of the step's own before those that follow from other steps.
	Causes []Cause
	Log    string // path of its whole log, or ""
	// Verified says that the step ran though the cache has it, and Differs which paths that made otherwise, sorted.
	Verified bool
	Differs  []string
	// Expected is how long the step took when it last ran, or the one that stood in its place before; 0 is unknown.
	Expected           time.Duration
	Started, Completed time.Time
	Err                error
}

// StepStatus is what became, or would become, of a step.
type StepStatus string

// The states of a step. StatusMayRun is used by previews only: it stands behind something that must run first.
const (
	StatusCached    StepStatus = "cached"
	StatusRan       StepStatus = "ran"
	StatusFailed    StepStatus = "failed"
	StatusSkipped   StepStatus = "skipped" // an input failed, or the build was cancelled
	StatusWillRun   StepStatus = "will run"
	StatusMayRun    StepStatus = "may run"
	StatusNotNeeded StepStatus = "not needed" // nothing that ran needed its content
)

// ImageResult is one finished target.
type ImageResult struct {
	Target       string
	Tags         []string
	Digest       digest.Digest // of the manifest, or of the index of several platforms
	ConfigDigest digest.Digest // of a single manifest
	MediaType    string
	Size         int64 // of the manifest or index itself, bytes
	// Platforms are what each platform of it holds, in the order of the graph's images; none where no image was made.
	Platforms []PlatformImage
}

// PlatformImage is the image of one platform.
type PlatformImage struct {
	Platform string // os/architecture[/variant]
	Digest   digest.Digest
	Layers   []ImageLayer // bottom first
}

// ImageLayer is a layer as an image has it.
type ImageLayer struct {
	Digest    digest.Digest `json:"digest"` // of the packed form
	DiffID    digest.Digest `json:"diffId"`
	Size      int64         `json:"size"` // packed, bytes
	CreatedBy string        `json:"createdBy,omitempty"`
	Base      bool          `json:"base,omitempty"` // of the image that it stands on
}
