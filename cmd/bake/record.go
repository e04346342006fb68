package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/report"
	"github.com/bakebuild/bake/planner"
)

// recording gathers what is known of a build while it goes on.
type recording struct {
	session  *session
	begun    bool // a step has begun, and what the steps are is kept
	facts    report.Facts
	recorder report.Recorder
	logs     *stepLogs // nil where the engine keeps the output of steps itself
}

// record starts the recording of a build, of daemons if there are any.
func (s *session) record(p *config.Project, builders []buildkitd.Builder) *recording {
	now := time.Now()
	r := &recording{session: s, facts: report.Facts{
		ID: cache.Stamp(now) + "-" + strings.ToLower(rand.Text()[:6]), Tool: version(), Engine: embeddedEngine,
		Dir: p.Dir, Targets: p.Requested, Started: now,
	}}
	if len(builders) > 0 {
		var names []string
		for _, b := range builders {
			names = append(names, b.Address)
		}
		r.facts.Engine = strings.Join(names, ", ")
		r.logs = &stepLogs{store: s.store, files: map[digest.Digest]*os.File{}}
	}
	r.keepBegun()
	return r
}

// keepBegun keeps what is known of a build that goes on: all that there will be of one whose process is killed.
func (r *recording) keepBegun() {
	f := r.facts
	f.Session, f.Completed = r.session.store.Session(), f.Started
	r.session.keepBuild(report.New(f))
}

// event takes an event of the engine.
func (r *recording) event(e executor.Event) {
	if e.Kind == executor.KindStart && !r.begun && r.isStep(e.Step) {
		r.begun = true
		r.keepBegun()
	}
	r.recorder.Event(e)
	if r.logs != nil && e.Kind == executor.KindLog {
		r.logs.write(e)
	}
}

// isStep says whether an event is about a step of the graph.
func (r *recording) isStep(d digest.Digest) bool {
	return r.facts.Graph != nil && slices.ContainsFunc(r.facts.Graph.Steps, func(s *planner.Step) bool { return s.Digest == d })
}

// finish makes the value of the build. err is what it ended with.
func (r *recording) finish(ctx context.Context, err error) report.Run {
	var sig signalError
	f := r.facts
	f.Completed, f.Spans, f.Err = time.Now(), r.recorder.Spans(), err
	f.Interrupted = err != nil && (errors.As(context.Cause(ctx), &sig) || errors.Is(err, context.Canceled))
	if r.logs != nil {
		f.Logs = r.logs.close()
	}
	return report.New(f)
}

// keepBuild adds a build to the history. That it cannot be written is noted and fails no build.
func (s *session) keepBuild(run report.Run) {
	raw, err := report.Encode(run)
	if err == nil {
		err = s.store.PutBuild(run.ID, raw)
	}
	if err != nil {
		s.app.note("the history of builds: %v", err)
	}
}

// maxStepLog bounds what is kept of the output of one step, in bytes.
const maxStepLog = 256 << 20

// stepLogs keeps the output of steps of engines that keep none.
type stepLogs struct {
	store *cache.Store
	files map[digest.Digest]*os.File
	wrote map[digest.Digest]int64
}

// write keeps a piece of output. A log that cannot be written must not fail the step.
func (l *stepLogs) write(e executor.Event) {
	f, ok := l.files[e.Step]
	if !ok {
		f, _ = l.store.NewLog(e.Step)
		l.files[e.Step] = f
	}
	if l.wrote == nil {
		l.wrote = map[digest.Digest]int64{}
	}
	if f == nil || l.wrote[e.Step] >= maxStepLog {
		return
	}
	n, _ := f.Write(e.Log)
	l.wrote[e.Step] += int64(n)
}

// close ends the logs and says where they are.
func (l *stepLogs) close() map[digest.Digest]string {
	names := map[digest.Digest]string{}
	for step, f := range l.files {
		if f != nil {
			names[step] = f.Name()
			_ = f.Close() // it was only written in passing
		}
	}
	return names
}
