// Package executor defines how a graph is run: the Engine interface, its options and its report. It also has what all
// engines share: the assembly of images and the writing of outputs. It may import config, planner, executor/attest,
// executor/docker and executor/registry; engines import it.
package executor

import (
	"context"
	"io"
	"os"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/planner"
)

// Engine runs graphs. Run builds every image of a graph and writes its outputs. It always returns a report: with an
// error, the report covers what was done until then. Tags and outputs move only when every requested image has been
// built, unless Options.KeepGoing is set.
type Engine interface {
	Run(ctx context.Context, g *planner.Graph, opts Options) (*Report, error)
}

// Options configures one run.
type Options struct {
	Jobs    int  // steps that run at once; 0 means the number of CPUs
	NoCache bool // run every step even if it is cached; results are stored
	// Verify runs cached steps again and compares the results. The build continues with the cached ones.
	Verify bool
	// KeepGoing continues with the steps that do not depend on a failed one, and writes the outputs of the targets that
	// succeeded. Several failures are returned as *Failures.
	KeepGoing bool
	// Epoch is the time to which times in images are set or clamped; nil means DefaultEpoch.
	Epoch *time.Time
	// Events receives events in order, from one goroutine at a time. It may be nil.
	Events func(Event)
	// Warn receives problems that do not fail the build, such as an unreadable cache. Several goroutines may call it.
	// It may be nil.
	Warn func(text string)
	// Allow lists the granted entitlements, such as network.host and security.insecure.
	Allow []string
	// Dir is the base of relative destinations of outputs, an absolute path. Stdout receives outputs to stdout; nil
	// refuses them.
	Dir    string
	Stdout io.Writer
	// Debug, if not nil, is called when a command has failed, one call at a time. Steps that have not started wait for
	// it. shell opens a shell on a terminal whose type is name, a value of TERM, in the step's root file system with
	// the step's environment and mounts. It is nil if the root has no shell. Debug does not change the result of the
	// build.
	Debug func(failed *StepError, shell func(terminal *os.File, name string) error)
	// Project is the directory of the project. The cache records under it what its targets use; empty records nothing.
	Project string
}

// Event reports progress of a step or of a named activity, such as a transfer or an export.
type Event struct {
	Time time.Time
	// Step is the digest of a graph step, or a digest of Name for an activity outside the graph.
	Step digest.Digest
	Name string
	Kind EventKind
	// Log is raw output of the step for KindLog; Stream is 1 for stdout and 2 for stderr.
	Log    []byte
	Stream int
	// For KindProgress, ID names a part (a layer, a blob); Current and Total are its bytes. Total 0 means unknown.
	ID             string
	Current, Total int64
	Err            error // for KindDone of a failed step
}

// EventKind is the kind of an Event.
type EventKind int

// The kinds of Event. A step has one KindStart, then any of KindLog and KindProgress, then one KindDone or KindCached.
// A cached step has KindCached alone.
const (
	KindStart EventKind = iota
	KindLog
	KindProgress
	KindDone
	KindCached
)

// Report is the result of one run.
type Report struct {
	Images             []ImageResult
	Steps              []StepResult // in graph order
	Started, Completed time.Time
}

// StepResult is the result of one step.
type StepResult struct {
	Digest digest.Digest
	Key    digest.Digest // zero if it was not computed
	// Same is an earlier step of the graph whose result serves this one too, because both read equal files; "" if there
	// is none.
	Same   digest.Digest
	Status StepStatus
	Reason string // why it ran or would run, as text; the first of Causes if there are any
	// Causes are the reasons why it ran or would run: the step's own first, then those that follow from other steps.
	Causes []Cause
	Log    string // path of its whole log, or ""
	// Claim is the remote cache that says that the step has this result, "" if it ran here. Nothing can verify that.
	Claim string
	// Verified reports that a cached step ran again. Differs lists the paths whose result differed, sorted.
	Verified bool
	Differs  []string
	// Expected is the duration of the last run of the step, or of the step that it replaces; 0 means unknown.
	Expected           time.Duration
	Started, Completed time.Time
	Err                error
}

// StepStatus is the state of a step after a run, or in a preview.
type StepStatus string

// The states of a step. StatusWillRun and StatusMayRun are for previews: a step that may run depends on one that will
// run.
const (
	StatusCached    StepStatus = "cached"
	StatusRan       StepStatus = "ran"
	StatusFailed    StepStatus = "failed"
	StatusSkipped   StepStatus = "skipped" // an input failed, or the build was cancelled
	StatusWillRun   StepStatus = "will run"
	StatusMayRun    StepStatus = "may run"
	StatusNotNeeded StepStatus = "not needed" // no step that ran needed its content
)

// ImageResult is the result of one target.
type ImageResult struct {
	Target       string
	Tags         []string
	Digest       digest.Digest // of the manifest, or of the index of several platforms
	ConfigDigest digest.Digest // of a single manifest
	MediaType    string
	Size         int64 // of the manifest or index itself, bytes
	// Platforms are the images by platform, in the order of the graph; empty if no image was assembled.
	Platforms []PlatformImage
	Change    Change
}

// Change compares an image with the one that had its names in the local store before.
type Change int

const (
	ChangeUnknown Change = iota // the image has no name in the local store
	Changed                     // a name is new or referred to another image
	Unchanged                   // all names referred to this digest before
)

// PlatformImage is the image of one platform.
type PlatformImage struct {
	Platform string // os/architecture[/variant]
	Digest   digest.Digest
	Layers   []ImageLayer // bottom first
}

// ImageLayer is one layer of an image.
type ImageLayer struct {
	Digest    digest.Digest `json:"digest"` // of the blob
	DiffID    digest.Digest `json:"diffId"`
	Size      int64         `json:"size"` // of the blob, bytes
	CreatedBy string        `json:"createdBy,omitempty"`
	Base      bool          `json:"base,omitempty"` // the layer comes from the base image
	// Claim is the remote cache that says that a step of the image makes this layer, "" if the step ran here. Unread is
	// set if not even the bytes of the layer were read here: its diff id is a claim then too.
	Claim  string `json:"claim,omitempty"`
	Unread bool   `json:"unread,omitempty"`
}
