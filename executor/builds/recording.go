package builds

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/report"
	"github.com/bakebuild/bake/planner"
)

// Recording collects the facts of a build while it runs.
//
// The store gets a record at the start, at the first step, and at the end. The first two are all that remains of a
// build whose process is killed; they name the store's session, by which List finds out that the process has ended.
type Recording struct {
	// Facts are completed by the caller: Graph before the engine starts, Report when it has ended.
	Facts report.Facts

	store    *cache.Store
	begun    bool // a step has begun, so the record has the graph
	recorder report.Recorder
	logs     *stepLogs // nil if the engine keeps the output of steps itself
	warn     func(error)
}

// Options are the settings of a recording.
type Options struct {
	Facts    report.Facts // without ID and Started, which Record sets
	KeepLogs bool         // store the output of steps, because the engine does not
	Warn     func(error)  // called if a record cannot be written, which never fails a build
}

// Record starts the recording of a build.
func Record(s *cache.Store, o Options) *Recording {
	now := time.Now()
	r := &Recording{store: s, Facts: o.Facts, warn: o.Warn}
	r.Facts.ID, r.Facts.Started = cache.Stamp(now)+"-"+strings.ToLower(rand.Text()[:6]), now
	if o.KeepLogs {
		r.logs = newStepLogs(s, o.Warn)
	}
	r.keepBegun()
	return r
}

func (r *Recording) keepBegun() {
	f := r.Facts
	f.Session, f.Completed = r.store.Session(), f.Started
	r.keep(report.New(f))
}

// Event records an event of the engine. One goroutine at a time may call it.
func (r *Recording) Event(e executor.Event) {
	if e.Kind == executor.KindStart && !r.begun && r.isStep(e.Step) {
		r.begun = true
		r.keepBegun()
	}
	r.recorder.Event(e)
	if r.logs != nil && e.Kind == executor.KindLog {
		r.logs.write(e)
	}
}

// isStep reports whether the digest of an event is that of a step in the graph; activities have digests too.
func (r *Recording) isStep(d digest.Digest) bool {
	return r.Facts.Graph != nil &&
		slices.ContainsFunc(r.Facts.Graph.Steps, func(s *planner.Step) bool { return s.Digest == d })
}

// Finish stores the record of the build and returns it. err is the build's result; interrupted reports that the user
// ended the build.
func (r *Recording) Finish(err error, interrupted bool) report.Run {
	f := r.Facts
	f.Completed, f.Spans, f.Err, f.Interrupted = time.Now(), r.recorder.Spans(), err, interrupted
	if r.logs != nil {
		f.Logs = r.logs.close()
	}
	run := report.New(f)
	r.keep(run)
	return run
}

func (r *Recording) keep(run report.Run) {
	raw, err := report.Encode(run)
	if err == nil {
		err = r.store.PutBuild(run.ID, raw)
	}
	if err != nil {
		r.warn(err)
	}
}
